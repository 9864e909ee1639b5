#include "hora/engine/job_settings.h"

#include <algorithm>
#include <optional>

namespace hora {

Tunables TunablesOf(const Config& config) {
  return {.tuning = {.fusion_threshold_bytes = config.data_plane.fusion_threshold_bytes,
                     .chunk_bytes =
                         std::min(config.data_plane.chunk_bytes, config.data_plane.window_bytes),
                     .small_allreduce_bytes = config.data_plane.small_allreduce_bytes,
                     .urgent_bytes = config.data_plane.urgent_bytes},
          .window_bytes = config.data_plane.window_bytes,
          .cache_capacity = config.cache_capacity,
          .tree_fan_out = config.tree_fan_out,
          .join_divides_by_size = config.join_divides_by_size ? 1u : 0u};
}

Protection ControlProtection(const Config& config) {
  return config.network.control_plane == "tls" ? Protection::kTls : Protection::kMac;
}

JobGroupOptions JobGroupOptionsOf(const Topology& topology, const Config& config,
                                  const std::string& store) {
  std::optional<Protection> data;
  if (const std::string& asked = config.network.data_plane; !asked.empty()) {
    data = asked == "tls" ? Protection::kTls : Protection::kChecksum;
  }
  return {.rank = topology.rank,
          .size = topology.size,
          .local_rank = topology.local_rank,
          .local_size = topology.local_size,
          .store = store,
          .control = ControlProtection(config),
          .data = data,
          .engine = config.network.engine,
          .tunables = TunablesOf(config),
          .timeout = config.start_timeout};
}

}  // namespace hora

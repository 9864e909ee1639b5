#include "hora/engine/job_settings.h"

#include <algorithm>

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

}  // namespace hora

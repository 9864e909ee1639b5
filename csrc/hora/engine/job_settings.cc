#include "hora/engine/job_settings.h"

namespace hora {

Tunables TunablesOf(const Config& config) {
  const bool whole_windows = config.chunk_bytes == 0 || config.chunk_bytes > config.window_bytes;
  return {.tuning = {.fusion_threshold_bytes = config.fusion_threshold_bytes,
                     .chunk_bytes = whole_windows ? config.window_bytes : config.chunk_bytes,
                     .small_allreduce_bytes = config.small_allreduce_bytes,
                     .urgent_bytes = config.urgent_bytes},
          .window_bytes = config.window_bytes,
          .cache_capacity = config.cache_capacity,
          .tree_fan_out = config.tree_fan_out,
          .join_divides_by_size = config.join_divides_by_size ? 1u : 0u};
}

}  // namespace hora

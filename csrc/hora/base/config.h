// Every setting of the engine, read once from HORA_* variables. No other file reads the
// environment.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "hora/base/clock.h"
#include "hora/base/logging.h"
#include "hora/base/result.h"

namespace hora {

// Longer than any job, and short enough for sums of times.
inline constexpr Duration kNever = std::chrono::hours(24 * 365 * 10);

struct AutotuneConfig {
  bool enabled = false;       // HORA_AUTOTUNE: 0 or 1
  std::string log;            // HORA_AUTOTUNE_LOG: a file that rank 0 appends to; none when empty
  int warmup_samples = 3;     // HORA_AUTOTUNE_WARMUP_SAMPLES
  int steps_per_sample = 10;  // HORA_AUTOTUNE_STEPS_PER_SAMPLE
  int max_samples = 60;       // HORA_AUTOTUNE_MAX_SAMPLES
};

struct DataPlaneConfig {
  std::size_t fusion_threshold_bytes = 128u << 20;  // HORA_FUSION_THRESHOLD_BYTES
  std::size_t window_bytes = 256u << 10;            // HORA_WINDOW_BYTES: one shared window
  std::size_t chunk_bytes = 0;                      // HORA_CHUNK_BYTES; 0: by ranks
  std::size_t small_allreduce_bytes = 4u << 10;     // HORA_SMALL_ALLREDUCE_BYTES
  std::size_t urgent_bytes = 64u << 10;             // HORA_URGENT_BYTES
  std::size_t result_memory_bytes = 256u << 20;     // HORA_RESULT_MEMORY_BYTES
};

// How several hosts work together.
struct NetworkConfig {
  // HORA_BACKEND: tcp, gloo or mpi between hosts and shared memory inside; with "flat-" before it,
  // also inside.
  std::string engine = "tcp";
  // HORA_CONTROL_PLANE: tls, or mac where TLS is refused.
  std::string control_plane = "tls";
  // HORA_DATA_PLANE: tls; auth: authenticated, then plain with checksums; empty: tls, and auth
  // where all of it stays on the loopback interface.
  std::string data_plane;
  std::string plugin_directory;  // HORA_PLUGIN_DIRECTORY: where hora_gloo.so and its kin lie
  Duration heartbeat = std::chrono::seconds(3);  // HORA_HEARTBEAT_SECONDS: silence that is a death

  bool flat() const { return engine.starts_with("flat-"); }
  std::string library() const { return flat() ? engine.substr(5) : engine; }
};

struct DeviceConfig {
  // HORA_GPU_BACKEND: nccl; staged: through pinned memory of the host; auto: NCCL inside hosts
  // where every rank has a GPU of its own, else staged. Equal on all ranks.
  std::string backend = "auto";
  std::string nccl_library;  // HORA_NCCL_LIBRARY: a file; empty: PyTorch's, or one that is found
  std::size_t pinned_bytes = 256u << 20;  // HORA_PINNED_MEMORY_BYTES: kept for staging
  bool nccl_alone = false;  // HORA_NCCL_ALONE: 0 or 1; NCCL is called by a single rank, too
};

struct Config {
  Duration stall_warning = std::chrono::seconds(10);  // HORA_STALL_WARNING_SECONDS; 0: kNever
  Duration stall_abort = std::chrono::seconds(300);   // HORA_STALL_ABORT_SECONDS; 0: kNever
  Duration start_timeout = std::chrono::seconds(30);  // HORA_START_TIMEOUT_SECONDS
  bool join_divides_by_size = false;                  // HORA_JOIN_DIVIDES_BY_SIZE: 0 or 1
  std::uint32_t cache_capacity = 4096;                // HORA_CACHE_CAPACITY: response-cache entries
  int tree_fan_out = 8;                               // HORA_TREE_FAN_OUT
  LogLevel log_level = LogLevel::kWarning;            // HORA_LOG_LEVEL
  DataPlaneConfig data_plane;
  NetworkConfig network;
  DeviceConfig device;
  AutotuneConfig autotune;

  using Lookup = std::function<std::optional<std::string>(const char* name)>;

  // kInvalidArgument names the variable, its value and the allowed range.
  static Result<Config> From(const Lookup& lookup);
  static Result<Config> FromEnvironment();
};

}  // namespace hora

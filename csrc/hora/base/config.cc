#include "hora/base/config.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

// Collects the first error, so that From() reads as a list of settings.
class Reader {
 public:
  explicit Reader(const Config::Lookup& lookup) : lookup_(lookup) {}

  // 0: never.
  void SecondsOrNever(const char* name, Duration& into, double low, double high) {
    if (lookup_(name) == "0") {
      into = kNever;
    } else {
      Seconds(name, into, low, high, " (0: never)");
    }
  }

  void Seconds(const char* name, Duration& into, double low, double high,
               const char* or_else = "") {
    const auto store = [&](double seconds) {
      into = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
    };
    Number<double>(name, "a number of seconds", low, high, store, or_else);
  }

  template <class Int>
  void Integer(const char* name, Int& into, long long low, long long high) {
    Number<long long>(name, "an integer", low, high,
                      [&](long long value) { into = static_cast<Int>(value); });
  }

  void Word(const char* name, std::string& into, std::initializer_list<const char*> allowed) {
    const auto text = lookup_(name);
    if (!text) return;
    if (std::find(allowed.begin(), allowed.end(), *text) != allowed.end()) {
      into = *text;
    } else {
      Reject(Error(StatusCode::kInvalidArgument, "{}='{}' is not one of {}", name, *text,
                   fmt::join(allowed, ", ")));
    }
  }

  void Level(const char* name, LogLevel& into) {
    const auto text = lookup_(name);
    if (!text) return;
    if (const auto level = ParseLogLevel(*text)) {
      into = *level;
    } else {
      Reject(Error(StatusCode::kInvalidArgument,
                   "{}='{}' is not one of trace, debug, info, warning, error, off", name, *text));
    }
  }

  const Status& status() const { return status_; }

 private:
  template <class Value, class Store>
  void Number(const char* name, std::string_view kind, Value low, Value high, Store store,
              const char* or_else = "") {
    const auto text = lookup_(name);
    if (!text) return;
    Value value{};
    const char* end = text->data() + text->size();
    const auto [stop, error] = std::from_chars(text->data(), end, value);
    if (error != std::errc{} || stop != end || !(value >= low && value <= high)) {
      Reject(Error(StatusCode::kInvalidArgument, "{}='{}' is not {} between {} and {}{}", name,
                   *text, kind, low, high, or_else));
      return;
    }
    store(value);
  }

  void Reject(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  const Config::Lookup& lookup_;
  Status status_;
};

}  // namespace

Result<Config> Config::From(const Lookup& lookup) {
  Config config;
  Reader read(lookup);
  read.SecondsOrNever("HORA_STALL_WARNING_SECONDS", config.stall_warning, 0.01, 86400);
  read.SecondsOrNever("HORA_STALL_ABORT_SECONDS", config.stall_abort, 0.01, 604800);
  read.Seconds("HORA_START_TIMEOUT_SECONDS", config.start_timeout, 0.01, 86400);
  read.Integer("HORA_FUSION_THRESHOLD_BYTES", config.data_plane.fusion_threshold_bytes, 0,
               1LL << 40);
  read.Integer("HORA_WINDOW_BYTES", config.data_plane.window_bytes, 4096, 64LL << 20);
  read.Integer("HORA_CHUNK_BYTES", config.data_plane.chunk_bytes, 0, 64LL << 20);
  read.Integer("HORA_SMALL_ALLREDUCE_BYTES", config.data_plane.small_allreduce_bytes, 0,
               64LL << 20);
  read.Integer("HORA_URGENT_BYTES", config.data_plane.urgent_bytes, 0, 1LL << 40);
  read.Integer("HORA_RESULT_MEMORY_BYTES", config.data_plane.result_memory_bytes, 0, 1LL << 40);
  read.Integer("HORA_JOIN_DIVIDES_BY_SIZE", config.join_divides_by_size, 0, 1);
  read.Integer("HORA_AUTOTUNE", config.autotune.enabled, 0, 1);
  read.Integer("HORA_AUTOTUNE_WARMUP_SAMPLES", config.autotune.warmup_samples, 0, 1000000);
  read.Integer("HORA_AUTOTUNE_STEPS_PER_SAMPLE", config.autotune.steps_per_sample, 1, 1000000);
  read.Integer("HORA_AUTOTUNE_MAX_SAMPLES", config.autotune.max_samples, 1, 1000000);
  if (const auto path = lookup("HORA_AUTOTUNE_LOG")) config.autotune.log = *path;
  read.Integer("HORA_CACHE_CAPACITY", config.cache_capacity, 0, 1LL << 20);
  read.Integer("HORA_TREE_FAN_OUT", config.tree_fan_out, 2, 1024);
  NetworkConfig& network = config.network;
  read.Word("HORA_BACKEND", network.engine,
            {"tcp", "gloo", "mpi", "flat-tcp", "flat-gloo", "flat-mpi"});
  read.Word("HORA_CONTROL_PLANE", network.control_plane, {"tls", "mac"});
  read.Word("HORA_DATA_PLANE", network.data_plane, {"tls", "auth"});
  if (const auto path = lookup("HORA_PLUGIN_DIRECTORY")) network.plugin_directory = *path;
  read.Seconds("HORA_HEARTBEAT_SECONDS", network.heartbeat, 0.2, 3600);
  DeviceConfig& device = config.device;
  read.Word("HORA_GPU_BACKEND", device.backend, {"auto", "nccl", "staged"});
  if (const auto path = lookup("HORA_NCCL_LIBRARY")) device.nccl_library = *path;
  read.Integer("HORA_NCCL_ALONE", device.nccl_alone, 0, 1);
  read.Integer("HORA_PINNED_MEMORY_BYTES", device.pinned_bytes, 0, 1LL << 40);
  read.Level("HORA_LOG_LEVEL", config.log_level);
  if (!read.status().ok()) return Fail(read.status());
  if (config.data_plane.window_bytes % 4096 != 0) {
    return Fail(Error(StatusCode::kInvalidArgument,
                      "HORA_WINDOW_BYTES='{}' is not a multiple of 4096",
                      config.data_plane.window_bytes));
  }
  return config;
}

Result<Config> Config::FromEnvironment() {
  return From([](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr) return std::nullopt;
    return std::string(value);
  });
}

}  // namespace hora

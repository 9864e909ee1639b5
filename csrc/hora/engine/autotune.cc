#include "hora/engine/autotune.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/base/wait.h"

namespace hora {
namespace {

// Every chunk takes a meeting of all ranks, which costs microseconds each when they share cores.
std::uint64_t LeastChunkBytes(int ranks, int cores) {
  constexpr std::uint64_t kLeast = 16u << 10;
  return ranks <= cores ? kLeast : kLeast * static_cast<std::uint64_t>(ranks);
}

}  // namespace

Autotune::Autotune(const Config& config, const Tunables& tunables, int ranks)
    : tuner_({.start = tunables.tuning,
              .window_bytes = tunables.window_bytes,
              .least_chunk_bytes = LeastChunkBytes(ranks, UsableCores()),
              .warmup_samples = config.autotune.warmup_samples,
              .steps_per_sample = config.autotune.steps_per_sample,
              .max_samples = config.autotune.max_samples}),
      log_path_(config.autotune.log) {
  if (log_path_.empty()) return;
  log_ = open(log_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  Write(tuner_.TakeLog());
}

Autotune::~Autotune() {
  if (log_ >= 0) close(log_);
}

std::optional<Tuning> Autotune::Step(std::uint64_t bytes, TimePoint began, TimePoint ended) {
  tuner_.Step(bytes, began, ended);
  if (std::string lines = tuner_.TakeLog(); !lines.empty() && !log_path_.empty()) Write(lines);
  return tuner_.TakeTuning();
}

// Whole lines at once, so that the file can be read while the job runs.
void Autotune::Write(const std::string& lines) {
  const char* next = lines.data();
  const char* const end = next + lines.size();
  while (log_ >= 0 && next < end) {
    const ssize_t written = write(log_, next, static_cast<std::size_t>(end - next));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    next += written;
  }
  if (log_ >= 0 && next == end) return;
  Log(LogLevel::kWarning, 0,
      fmt::format("HORA_AUTOTUNE_LOG='{}' cannot be written: {}; the search goes on without a log",
                  log_path_, std::strerror(errno)));
  if (log_ >= 0) close(log_);
  log_ = -1;
  log_path_.clear();
}

}  // namespace hora

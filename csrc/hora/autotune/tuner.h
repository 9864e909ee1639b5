// Searches for the tuning with which this job moves most bytes a second.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hora/base/clock.h"
#include "hora/wire/tunables.h"

namespace hora {

struct TunerOptions {
  Tuning start;
  std::uint64_t window_bytes = 0;  // the largest chunk
  int warmup_samples = 3;
  int steps_per_sample = 10;
  int max_samples = 60;
};

// Pure: holds no thread, clock or file; one thread at a time. Only the root of the global set has
// one; what it decides reaches all ranks in the stream of decisions.
class Tuner {
 public:
  explicit Tuner(TunerOptions options);

  // An agreement's operations, `bytes` in all, were done at `now`.
  void Step(std::uint64_t bytes, TimePoint now);

  // The tuning to go on with, when it is another one than before.
  std::optional<Tuning> TakeTuning();

  // Lines of comma-separated values since the last call, a header first.
  std::string TakeLog();

  bool settled() const;            // the search is over
  const Tuning& best() const;

 private:
  TunerOptions options_;
};

}  // namespace hora

// Searches for the tuning with which this job moves most bytes a second.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hora/autotune/pattern_search.h"
#include "hora/base/clock.h"
#include "hora/wire/tunables.h"

namespace hora {

struct TunerOptions {
  Tuning start;
  std::uint64_t window_bytes = 0;           // the largest chunk
  std::uint64_t least_chunk_bytes = 16384;  // the smallest one to try
  int warmup_samples = 3;
  int steps_per_sample = 10;
  int max_samples = 60;
};

// Turns what the engine did into samples, and samples into the next tuning to try, until the search
// has settled. Then the tuning stays, and Step costs nothing.
//
// A sample's score is how fast bytes moved in the time in which operations were executed, relative
// to the mean speed of all steps of about the same size (by powers of two): large steps are faster
// than small ones whatever the tuning, and no two samples have the same mix of them.
//
// A chunk costs a meeting of all ranks, and more so when they share cores: the caller bounds what
// is tried, for a sample with chunks that are far too small would hold up the job.
//
// Pure: holds no thread, clock or file; one thread at a time. Only the root of the global set has
// one; what it decides reaches all ranks in the stream of decisions.
class Tuner {
 public:
  explicit Tuner(TunerOptions options);

  // An agreement's operations, `bytes` in all, were executed from `began` to `ended`. Only this
  // time counts: while a rank loads data or computes, and nothing is executed, no tuning is slow.
  void Step(std::uint64_t bytes, TimePoint began, TimePoint ended);

  // The tuning to go on with, when it is another one than before.
  std::optional<Tuning> TakeTuning();

  // Lines of comma-separated values since the last call, a header first.
  std::string TakeLog();

  bool settled() const { return search_.settled(); }
  const Tuning& best() const { return search_.best(); }

 private:
  struct Moved {
    double bytes = 0;
    double seconds = 0;
  };
  struct Sample {
    int steps = 0;
    Moved moved;
    double usual_seconds = 0;  // that such steps take in the mean
  };

  void EndSample();
  void LogSample(const char* phase, double score);

  TunerOptions options_;
  PatternSearch search_;
  Tuning current_;
  bool changed_ = false;
  int warmup_left_;
  int samples_ = 0;  // in the log
  int steps_to_skip_ = 0;
  Sample sample_;
  std::array<Moved, 65> by_size_;  // all steps of sizes with so many bits
  std::string log_;
};

}  // namespace hora

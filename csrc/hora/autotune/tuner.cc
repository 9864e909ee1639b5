#include "hora/autotune/tuner.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

// A new tuning holds from some later agreement on, and the first one with it finds cold memory.
constexpr int kStepsToSkip = 3;

Tuning WithWholeWindows(Tuning tuning, std::uint64_t window_bytes) {
  if (tuning.chunk_bytes == 0) tuning.chunk_bytes = window_bytes;
  return tuning;
}

const char* Name(PatternSearch::Phase phase) {
  switch (phase) {
    case PatternSearch::Phase::kStart:
      return "start";
    case PatternSearch::Phase::kScreen:
      return "screen";
    case PatternSearch::Phase::kDuel:
      return "duel";
    case PatternSearch::Phase::kCheck:
      return "check";
    case PatternSearch::Phase::kSettled:
      break;
  }
  return "settled";
}

}  // namespace

Tuner::Tuner(TunerOptions options)
    : options_(options),
      search_(WithWholeWindows(options.start, options.window_bytes), options.window_bytes,
              options.max_samples),
      current_(search_.best()),
      warmup_left_(options.warmup_samples),
      log_(
          "sample,phase,seconds,bytes,gigabytes_per_second,fusion_threshold_bytes,chunk_bytes,"
          "small_allreduce_bytes\n") {}

void Tuner::Step(std::uint64_t bytes, TimePoint began, TimePoint ended) {
  if (settled() || bytes == 0) return;
  if (steps_to_skip_ > 0) {
    --steps_to_skip_;
    return;
  }
  bytes_ += bytes;
  busy_ += std::max(ended - began, Duration(1));
  if (++steps_ == options_.steps_per_sample) EndSample();
}

void Tuner::EndSample() {
  const double seconds = std::chrono::duration<double>(busy_).count();
  const std::uint64_t bytes = std::exchange(bytes_, 0);
  busy_ = Duration(0);
  steps_ = 0;
  if (warmup_left_ > 0) {
    --warmup_left_;
    LogSample("warmup", seconds, bytes, static_cast<double>(bytes) / seconds);
    return;
  }
  const double score = static_cast<double>(bytes) / seconds;
  LogSample(Name(search_.phase()), seconds, bytes, score);
  search_.Tell(score);
  if (search_.next() != current_) {
    current_ = search_.next();
    changed_ = true;
    steps_to_skip_ = kStepsToSkip;
  }
  if (settled()) LogSample(Name(search_.phase()), 0, 0, search_.best_score());
}

void Tuner::LogSample(const char* phase, double seconds, std::uint64_t bytes, double score) {
  fmt::format_to(std::back_inserter(log_), "{},{},{:.6f},{},{:.4f},{},{},{}\n", ++samples_, phase,
                 seconds, bytes, score / 1e9, current_.fusion_threshold_bytes, current_.chunk_bytes,
                 current_.small_allreduce_bytes);
}

std::optional<Tuning> Tuner::TakeTuning() {
  if (!std::exchange(changed_, false)) return std::nullopt;
  return current_;
}

std::string Tuner::TakeLog() { return std::exchange(log_, {}); }

}  // namespace hora

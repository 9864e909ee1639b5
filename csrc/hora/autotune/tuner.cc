#include "hora/autotune/tuner.h"

#include <algorithm>
#include <bit>
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
              options.least_chunk_bytes, options.max_samples),
      current_(search_.best()),
      warmup_left_(options.warmup_samples),
      log_(
          "sample,phase,seconds,bytes,gigabytes_per_second,relative_speed,"
          "fusion_threshold_bytes,chunk_bytes,small_allreduce_bytes,urgent_bytes\n") {}

void Tuner::Step(std::uint64_t bytes, TimePoint began, TimePoint ended) {
  if (settled() || bytes == 0) return;
  if (steps_to_skip_ > 0) {
    --steps_to_skip_;
    return;
  }
  const Moved step{.bytes = static_cast<double>(bytes),
                   .seconds = std::chrono::duration<double>(
                                  std::max<TimePoint::duration>(ended - began, Duration(1)))
                                  .count()};
  Moved& alike = by_size_[static_cast<std::size_t>(std::bit_width(bytes))];
  for (Moved* sum : {&alike, &sample_.moved}) {
    sum->bytes += step.bytes;
    sum->seconds += step.seconds;
  }
  sample_.usual_seconds += step.bytes * alike.seconds / alike.bytes;
  if (++sample_.steps == options_.steps_per_sample) EndSample();
}

void Tuner::EndSample() {
  const double score = sample_.usual_seconds / sample_.moved.seconds;
  if (warmup_left_ > 0) {
    --warmup_left_;
    LogSample("warmup", score);
    return;
  }
  LogSample(Name(search_.phase()), score);
  search_.Tell(score);
  if (search_.next() != current_) {
    current_ = search_.next();
    changed_ = true;
    steps_to_skip_ = kStepsToSkip;
  }
  if (settled()) LogSample(Name(search_.phase()), search_.best_score());
}

void Tuner::LogSample(const char* phase, double score) {
  const auto [steps, moved, usual_seconds] = std::exchange(sample_, {});
  const double speed = steps == 0 ? 0 : moved.bytes / moved.seconds / 1e9;
  fmt::format_to(std::back_inserter(log_), "{},{},{:.6f},{:.0f},{:.4f},{:.4f},{},{},{},{}\n",
                 ++samples_, phase, moved.seconds, moved.bytes, speed, score,
                 current_.fusion_threshold_bytes, current_.chunk_bytes,
                 current_.small_allreduce_bytes, current_.urgent_bytes);
}

std::optional<Tuning> Tuner::TakeTuning() {
  if (!std::exchange(changed_, false)) return std::nullopt;
  return current_;
}

std::string Tuner::TakeLog() { return std::exchange(log_, {}); }

}  // namespace hora

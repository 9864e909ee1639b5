#include "hora/autotune/pattern_search.h"

#include <algorithm>
#include <utility>

namespace hora {
namespace {

constexpr std::size_t kStartScores = 3;
constexpr std::size_t kDuelScores = 5;
constexpr std::size_t kDuelLosses = 5;  // that a winner may have: one spoilt score

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

std::array<std::uint64_t, 4> AsArray(const Tuning& tuning) {
  return {tuning.chunk_bytes, tuning.small_allreduce_bytes, tuning.fusion_threshold_bytes,
          tuning.urgent_bytes};
}

Tuning FromArray(const std::array<std::uint64_t, 4>& values) {
  return {.fusion_threshold_bytes = values[2],
          .chunk_bytes = values[0],
          .small_allreduce_bytes = values[1],
          .urgent_bytes = values[3]};
}

// Powers of two from `low` to `high`, and where the search starts.
std::vector<std::uint64_t> Grid(std::uint64_t low, std::uint64_t high, std::uint64_t start) {
  std::vector<std::uint64_t> values = {start};
  for (std::uint64_t value = low; value <= high; value *= 2) values.push_back(value);
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

double Median(std::vector<double> scores) {
  const auto middle = scores.begin() + static_cast<std::ptrdiff_t>(scores.size() / 2);
  std::nth_element(scores.begin(), middle, scores.end());
  return *middle;
}

// Pairs of one score each in which the first list's is not the higher one.
std::size_t Losses(const std::vector<double>& ours, const std::vector<double>& theirs) {
  std::size_t losses = 0;
  for (const double a : ours) {
    for (const double b : theirs) losses += a > b ? 0 : 1;
  }
  return losses;
}

}  // namespace

PatternSearch::PatternSearch(const Tuning& start, std::uint64_t window_bytes,
                             std::uint64_t least_chunk_bytes, int max_samples)
    : start_(start),
      grid_{Grid(std::min(least_chunk_bytes, window_bytes), window_bytes, start.chunk_bytes),
            Grid(1 * kKiB, 64 * kKiB, start.small_allreduce_bytes),
            Grid(1 * kMiB, 256 * kMiB, start.fusion_threshold_bytes),
            Grid(4 * kKiB, 1 * kMiB, start.urgent_bytes)},
      samples_left_(max_samples),
      best_(start),
      candidate_(start),
      next_(start) {
  if (grid_[1].front() != 0) grid_[1].insert(grid_[1].begin(), 0);
  tried_.insert(AsArray(start));
}

double PatternSearch::best_score() const { return latest_.empty() ? 0 : Median(latest_); }

void PatternSearch::Tell(double score) {
  if (settled()) return;
  --samples_left_;
  if (next_ == best_) {
    latest_.push_back(score);
    if (latest_.size() > kDuelScores) latest_.erase(latest_.begin());
  }
  // The check's scores are kept in reserve.
  const bool spent = samples_left_ <= static_cast<int>(2 * kDuelScores);
  if (phase_ == Phase::kCheck) {
    Check(score);
  } else if (spent) {
    CheckAgainstStart();
  } else if (phase_ == Phase::kStart) {
    if (latest_.size() >= kStartScores) TryNextCandidate();
  } else if (phase_ == Phase::kScreen && score <= Median(latest_)) {
    Advance();
    TryNextCandidate();
  } else {
    phase_ = Phase::kDuel;
    Duel(score);
  }
}

void PatternSearch::TryNextCandidate() {
  of_best_.clear();
  of_candidate_.clear();
  if (!FindCandidate()) {
    CheckAgainstStart();
    return;
  }
  tried_.insert(AsArray(candidate_));
  phase_ = Phase::kScreen;
  next_ = candidate_;
}

bool PatternSearch::FindCandidate() {
  for (; step_ > 0; --step_, failures_ = 0) {
    for (; failures_ < 2 * kParameters; Advance()) {
      std::array<std::uint64_t, kParameters> values = AsArray(best_);
      const std::vector<std::uint64_t>& grid = grid_[parameter_];
      const auto at = std::lower_bound(grid.begin(), grid.end(), values[parameter_]);
      const std::ptrdiff_t last = static_cast<std::ptrdiff_t>(grid.size()) - 1;
      const std::ptrdiff_t to =
          (at - grid.begin()) + direction_ * static_cast<std::ptrdiff_t>(step_);
      values[parameter_] = grid[static_cast<std::size_t>(std::clamp<std::ptrdiff_t>(to, 0, last))];
      candidate_ = FromArray(values);
      if (!tried_.contains(values)) return true;
    }
  }
  return false;
}

void PatternSearch::Advance() {
  ++failures_;
  direction_ = -direction_;
  if (failures_ % 2 == 0) parameter_ = (parameter_ + 1) % kParameters;
}

void PatternSearch::Duel(double score) {
  (next_ == candidate_ ? of_candidate_ : of_best_).push_back(score);
  if (Losses(of_candidate_, of_best_) > kDuelLosses) {
    Advance();
    TryNextCandidate();
  } else if (of_best_.size() == kDuelScores) {
    Accept();
  } else {
    next_ = of_best_.size() < of_candidate_.size() ? best_ : candidate_;
  }
}

void PatternSearch::Accept() {
  best_ = candidate_;
  latest_ = of_candidate_;
  failures_ = 0;  // and on in the same direction
  TryNextCandidate();
}

void PatternSearch::CheckAgainstStart() {
  if (best_ == start_) {
    Settle(start_, latest_);
    return;
  }
  phase_ = Phase::kCheck;
  of_best_.clear();
  of_candidate_.clear();
  candidate_ = start_;
  next_ = start_;
}

void PatternSearch::Check(double score) {
  (next_ == start_ ? of_candidate_ : of_best_).push_back(score);
  if (of_best_.size() == kDuelScores) {
    const bool better = Losses(of_best_, of_candidate_) <= kDuelLosses;
    Settle(better ? best_ : start_, better ? of_best_ : of_candidate_);
  } else {
    next_ = of_best_.size() < of_candidate_.size() ? best_ : start_;
  }
}

void PatternSearch::Settle(const Tuning& on, Scores scores) {
  best_ = on;
  latest_ = std::move(scores);
  next_ = best_;
  phase_ = Phase::kSettled;
}

}  // namespace hora

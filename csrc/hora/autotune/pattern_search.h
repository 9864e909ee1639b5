// Which tuning to measure next, and which measured one is the best.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "hora/wire/tunables.h"

namespace hora {

// Hooke and Jeeves' pattern search (J. ACM 8, 1961) on a grid of powers of two around the start:
// one parameter at a time, by four-fold steps and then by two-fold ones, on in a direction that
// helped. Scores are noisy, so a candidate must win: its first score must beat the median of the
// best tuning's latest ones, and then, measured alternately so that drift hits both, it must be
// the better one in 20 of the 25 pairs of five scores against five (chance alone: 1 in 13; Mann and
// Whitney, Ann. Math. Stat. 18, 1947). In the end the best must win so against the start, or the
// start is kept. Ranks need no estimate of the noise, and one score that another process has spoilt
// decides nothing.
//
// Pure; one thread at a time.
class PatternSearch {
 public:
  enum class Phase : std::uint8_t { kStart, kScreen, kDuel, kCheck, kSettled };

  // Uses at most `max_samples` scores. Chunks are tried from `least_chunk_bytes` to `window_bytes`;
  // a start outside of that is left, and returned to only if nothing else is better.
  PatternSearch(const Tuning& start, std::uint64_t window_bytes, std::uint64_t least_chunk_bytes,
                int max_samples);

  const Tuning& next() const { return next_; }  // to measure; when settled, the best
  Phase phase() const { return phase_; }        // what the measurement is for
  bool settled() const { return phase_ == Phase::kSettled; }
  const Tuning& best() const { return best_; }
  double best_score() const;  // the median of its latest ones; 0 before the first

  void Tell(double score);  // of next()

 private:
  static constexpr std::size_t kParameters = 4;
  using Scores = std::vector<double>;

  void TryNextCandidate();
  bool FindCandidate();
  void Advance();  // to the next direction, parameter or step
  void Duel(double score);
  void Accept();
  void CheckAgainstStart();
  void Check(double score);
  void Settle(const Tuning& on, Scores scores);

  const Tuning start_;
  std::array<std::vector<std::uint64_t>, kParameters> grid_;
  int samples_left_;

  Phase phase_ = Phase::kStart;
  Tuning best_;
  Tuning candidate_;  // in a check: the start
  Tuning next_;
  std::set<std::array<std::uint64_t, kParameters>> tried_;

  Scores latest_;   // of the best tuning, whatever they were measured for
  Scores of_best_;  // in this duel or check
  Scores of_candidate_;

  std::size_t parameter_ = 0;
  int direction_ = 1;
  std::size_t step_ = 2;      // on the grid
  std::size_t failures_ = 0;  // directions in a row that did not help, at this step
};

}  // namespace hora

// A job whose throughput depends on its tuning in a known way, on a machine that is never quiet.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>

#include "hora/autotune/tuner.h"

namespace hora {

// Gigabytes per second, without noise.
using Surface = std::function<double(const Tuning&)>;

class NoisyJob {
 public:
  // `noise`: the standard deviation of a step's speed, as a fraction. One step in `hiccup_every`
  // takes ten times as long (0: none does).
  NoisyJob(Surface surface, double noise, unsigned seed, int hiccup_every = 0)
      : surface_(std::move(surface)), noise_(noise), random_(seed), hiccup_every_(hiccup_every) {}

  // Runs steps until the tuner has settled; true when it did within `max_steps`.
  bool Run(Tuner& tuner, const Tuning& start, int max_steps) {
    Tuning tuning = start;
    for (int step = 0; step < max_steps && !tuner.settled(); ++step) {
      const double speed = surface_(tuning) * std::exp(noise_ * normal_(random_));
      const bool hiccup = hiccup_every_ > 0 && random_() % hiccup_every_ == 0;
      const std::uint64_t bytes = mixed_sizes ? kBytes >> random_() % 16 : kBytes;
      const double small = std::pow(static_cast<double>(bytes) / kBytes, 0.3);  // steps are slower
      const double seconds = static_cast<double>(bytes) / (speed * small * 1e9) * (hiccup ? 10 : 1);
      const TimePoint began = now_;
      now_ += std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
      tuner.Step(bytes, began, now_);
      if (const auto next = tuner.TakeTuning()) tuning = *next;
      now_ += idle;
    }
    last_ = tuning;
    return tuner.settled();
  }

  const Tuning& last() const { return last_; }  // what the job goes on with

  Duration idle{0};          // between steps
  bool mixed_sizes = false;  // steps of 2 KiB to 64 MiB, at random

 private:
  static constexpr std::uint64_t kBytes = 64 << 20;

  Surface surface_;
  double noise_;
  std::mt19937 random_;
  unsigned hiccup_every_;
  std::normal_distribution<double> normal_;
  TimePoint now_;
  Tuning last_;
};

}  // namespace hora

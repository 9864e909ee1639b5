#include "hora/autotune/tuner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "autotune/response_surface.h"

namespace hora {
namespace {

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr Tuning kStart{.fusion_threshold_bytes = 128 * kMiB,
                        .chunk_bytes = 256 * kKiB,
                        .small_allreduce_bytes = 4 * kKiB};
constexpr int kManySteps = 10000;

TunerOptions Options() { return {.start = kStart, .window_bytes = 256 * kKiB}; }

double Distance(std::uint64_t value, std::uint64_t from) {
  return std::log2(static_cast<double>(std::max<std::uint64_t>(value, 512))) -
         std::log2(static_cast<double>(from));
}

// Best with chunks of 32 KiB and a cut-over at 16 KiB; one doubling off costs 10 %.
double Hill(const Tuning& tuning) {
  const double chunk = Distance(tuning.chunk_bytes, 32 * kKiB);
  const double small = Distance(tuning.small_allreduce_bytes, 16 * kKiB);
  return 8.0 * std::exp(-0.1 * std::abs(chunk) - 0.1 * std::abs(small));
}

double Flat(const Tuning&) { return 5.0; }

TEST(Tuner, ClimbsTheHillWithoutNoise) {
  Tuner tuner(Options());
  NoisyJob job(Hill, 0.0, 1);
  ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
  EXPECT_EQ(tuner.best().chunk_bytes, 32 * kKiB);
  EXPECT_EQ(tuner.best().small_allreduce_bytes, 16 * kKiB);
  EXPECT_EQ(tuner.best().fusion_threshold_bytes, kStart.fusion_threshold_bytes);
  EXPECT_EQ(job.last(), tuner.best());
}

TEST(Tuner, TriesNoSmallerChunksThanItMay) {
  TunerOptions options = Options();
  options.least_chunk_bytes = 64 * kKiB;
  Tuner tuner(options);
  std::uint64_t smallest = kStart.chunk_bytes;
  const auto watched = [&](const Tuning& tuning) {
    smallest = std::min(smallest, tuning.chunk_bytes);
    return Hill(tuning);
  };
  NoisyJob job(watched, 0.0, 1);
  ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
  EXPECT_EQ(smallest, 64 * kKiB);
  EXPECT_EQ(tuner.best().chunk_bytes, 64 * kKiB);
}

TEST(Tuner, ClimbsMostOfTheHillThroughNoise) {
  int good = 0;
  for (unsigned seed = 0; seed < 100; ++seed) {
    Tuner tuner(Options());
    NoisyJob job(Hill, 0.2, seed);
    ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
    EXPECT_GE(Hill(tuner.best()), Hill(kStart)) << "seed " << seed;
    good += Hill(tuner.best()) >= 0.85 * 8.0 ? 1 : 0;
  }
  EXPECT_GE(good, 90);
}

TEST(Tuner, IsNotMisledByHiccups) {
  int good = 0;
  for (unsigned seed = 0; seed < 100; ++seed) {
    Tuner tuner(Options());
    NoisyJob job(Hill, 0.05, seed, /*hiccup_every=*/200);
    ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
    EXPECT_GE(Hill(tuner.best()), Hill(kStart)) << "seed " << seed;
    good += Hill(tuner.best()) > 1.1 * Hill(kStart) ? 1 : 0;
  }
  EXPECT_GE(good, 90);
}

TEST(Tuner, KeepsTheStartWhereNothingHelps) {
  int kept = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    Tuner tuner(Options());
    NoisyJob job(Flat, 0.3, seed);
    ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
    kept += tuner.best() == kStart ? 1 : 0;
  }
  EXPECT_GE(kept, 190);  // where nothing helps, moving does no harm either
}

TEST(Tuner, IsNotMisledByTheMixOfSizes) {
  int good = 0;
  int kept = 0;
  for (unsigned seed = 0; seed < 100; ++seed) {
    Tuner climbing(Options());
    NoisyJob hill(Hill, 0.1, seed);
    hill.mixed_sizes = true;
    ASSERT_TRUE(hill.Run(climbing, kStart, kManySteps));
    EXPECT_GE(Hill(climbing.best()), Hill(kStart)) << "seed " << seed;
    good += Hill(climbing.best()) > 1.1 * Hill(kStart) ? 1 : 0;

    Tuner staying(Options());
    NoisyJob flat(Flat, 0.1, seed);
    flat.mixed_sizes = true;
    ASSERT_TRUE(flat.Run(staying, kStart, kManySteps));
    kept += staying.best() == kStart ? 1 : 0;
  }
  EXPECT_GE(good, 85);
  EXPECT_GE(kept, 90);
}

TEST(Tuner, GoesBackToTheStartWhenTheBestWasLuck) {
  // The first candidate looks better until the check, as after a change of the machine's load.
  int samples = 0;
  const Surface fades = [&](const Tuning& tuning) {
    ++samples;
    return tuning != kStart && samples < 30 ? 8.0 : 5.0;
  };
  TunerOptions options = Options();
  options.steps_per_sample = 1;
  Tuner tuner(options);
  NoisyJob job(fades, 0.01, 3);
  ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
  EXPECT_EQ(tuner.best(), kStart);
  EXPECT_EQ(job.last(), kStart);
}

TEST(Tuner, DoesNotCountTimeInWhichNothingIsExecuted) {
  Tuner busy(Options());
  Tuner idle(Options());
  NoisyJob first(Hill, 0.02, 7);
  NoisyJob second(Hill, 0.02, 7);
  second.idle = std::chrono::seconds(60);
  ASSERT_TRUE(first.Run(busy, kStart, kManySteps));
  ASSERT_TRUE(second.Run(idle, kStart, kManySteps));
  EXPECT_EQ(busy.TakeLog(), idle.TakeLog());
}

TEST(Tuner, KeepsToItsBudgetOfSamples) {
  TunerOptions options = Options();
  options.max_samples = 25;
  options.warmup_samples = 2;
  Tuner tuner(options);
  NoisyJob job(Hill, 0.05, 5);
  ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
  const std::string log = tuner.TakeLog();
  // A header, the samples, and one line that says on what the search has settled.
  EXPECT_LE(std::count(log.begin(), log.end(), '\n'), 1 + 2 + 25 + 1);
}

TEST(Tuner, LeavesStepsOfAnOldTuningOut) {
  TunerOptions options = Options();
  options.warmup_samples = 0;
  options.steps_per_sample = 2;
  Tuner tuner(options);
  TimePoint now;
  int until_change = 0;
  while (!tuner.TakeTuning()) {
    tuner.Step(1000, now, now + std::chrono::microseconds(1));
    ASSERT_LT(++until_change, 100);
  }
  static_cast<void>(tuner.TakeLog());
  for (int step = 0; step < 4; ++step) {  // three to skip, and one of two
    tuner.Step(1000, now, now + std::chrono::microseconds(1));
  }
  EXPECT_EQ(tuner.TakeLog(), "");
  tuner.Step(1000, now, now + std::chrono::microseconds(1));
  EXPECT_NE(tuner.TakeLog(), "");
}

TEST(Tuner, StaysInItsBounds) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const Surface within = [](const Tuning& tuning) {
      EXPECT_GE(tuning.chunk_bytes, 16 * kKiB);
      EXPECT_LE(tuning.chunk_bytes, 256 * kKiB);
      EXPECT_LE(tuning.small_allreduce_bytes, 64 * kKiB);
      EXPECT_GE(tuning.fusion_threshold_bytes, kMiB);
      EXPECT_LE(tuning.fusion_threshold_bytes, 256 * kMiB);
      return 5.0;
    };
    Tuner tuner(Options());
    NoisyJob job(within, 0.5, seed);
    ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
  }
}

// "hora bench plot" knows a log by this line.
TEST(Tuner, NamesEveryColumnOfItsLog) {
  TunerOptions options = Options();
  options.max_samples = 1;
  Tuner tuner(options);
  NoisyJob job(Flat, 0.0, 1);
  ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
  const std::string log = tuner.TakeLog();
  const auto end = log.find('\n');
  EXPECT_EQ(log.substr(0, end),
            "sample,phase,seconds,bytes,gigabytes_per_second,relative_speed,"
            "fusion_threshold_bytes,chunk_bytes,small_allreduce_bytes,urgent_bytes");
  const std::string first = log.substr(end + 1, log.find('\n', end + 1) - end - 1);
  EXPECT_EQ(std::count(first.begin(), first.end(), ','), 9);
}

TEST(Tuner, ReadsNoChunkAsAWholeWindow) {
  TunerOptions options = Options();
  options.start.chunk_bytes = 0;
  EXPECT_EQ(Tuner(options).best().chunk_bytes, options.window_bytes);
}

TEST(Tuner, SettlesAtOnceWithTooFewSamples) {
  TunerOptions options = Options();
  options.max_samples = 1;
  options.warmup_samples = 0;
  Tuner tuner(options);
  NoisyJob job(Flat, 0.0, 1);
  ASSERT_TRUE(job.Run(tuner, kStart, kManySteps));
  EXPECT_EQ(tuner.best(), kStart);
}

}  // namespace
}  // namespace hora

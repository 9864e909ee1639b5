// Monotonic time behind a seam, so that time-outs and stalls are tested without waiting.
#pragma once

#include <atomic>
#include <chrono>

namespace hora {

using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::nanoseconds;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint Now() const = 0;  // any thread
};

class SteadyClock final : public Clock {
 public:
  TimePoint Now() const override { return std::chrono::steady_clock::now(); }
  static const SteadyClock& Instance();
};

// Moves only when told to. Any thread may read, one thread advances.
class ManualClock final : public Clock {
 public:
  TimePoint Now() const override { return TimePoint(Duration(now_ns_.load())); }
  void Advance(Duration by) { now_ns_.fetch_add(by.count()); }

 private:
  std::atomic<Duration::rep> now_ns_{0};
};

}  // namespace hora

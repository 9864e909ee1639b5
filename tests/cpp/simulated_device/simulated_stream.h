// What a simulated device does its work with.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/result.h"

namespace hora {

using SimulatedWork = std::function<void()>;
// What was captured, in an order that respects every dependency. Replayed as often as one likes.
using SimulatedGraph = std::shared_ptr<const std::vector<SimulatedWork>>;

class SimulatedStream;

// What is recorded instead of run while streams are captured: of the one where it began, and of
// those that have waited for an event of the capture. Any thread.
class SimulatedCapture {
 public:
  void Add(const SimulatedStream* stream, SimulatedWork work);
  std::uint64_t CountOf(const SimulatedStream* stream);
  // Somebody waits for the first `count` works of the stream.
  void Join(const SimulatedStream* stream, std::uint64_t count);
  void Invalidate(std::string why);  // the first reason counts
  // The capture of `origin` is over. kInvalidArgument: something forbidden was done, or nothing
  // that is left waits for what another stream has recorded.
  Result<SimulatedGraph> End(const SimulatedStream* origin);

 private:
  struct Recorded {
    std::uint64_t works = 0, joined = 0;
  };
  std::mutex mutex_;
  std::vector<SimulatedWork> work_;                     // mutex_
  std::map<const SimulatedStream*, Recorded> streams_;  // mutex_
  std::string invalid_;                                 // mutex_
};

using CaptureRef = std::shared_ptr<SimulatedCapture>;

// A thread that does what was put on it, in order. Any thread.
class SimulatedStream {
 public:
  explicit SimulatedStream(int device);
  ~SimulatedStream();  // what is on it is done, held or not

  int device() const { return device_; }
  void Put(SimulatedWork work);  // onto the capture, where there is one
  void SetHeld(bool held);
  void SetCapture(CaptureRef capture);
  CaptureRef capture();  // null: not captured, or its capture has ended

 private:
  void Work();

  const int device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<SimulatedWork> work_;           // mutex_
  std::weak_ptr<SimulatedCapture> capture_;  // mutex_
  bool held_ = false;                        // mutex_
  bool ended_ = false;                       // mutex_
  std::thread thread_;                       // last: uses all of the above
};

// How often it was recorded, and how often a stream has come to that. Any thread.
class SimulatedEvent {
 public:
  explicit SimulatedEvent(int device) : device_(device) {}

  int device() const { return device_; }
  void Record(SimulatedStream& stream);
  Status LetWait(SimulatedStream& stream) const;  // for what is recorded now
  Result<bool> IsDone() const;
  Result<bool> AwaitUntil(TimePoint deadline) const;

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t recorded = 0;
    std::uint64_t reached = 0;
    // Of the last time it was recorded.
    bool captured = false;
    std::weak_ptr<SimulatedCapture> capture;
    const SimulatedStream* stream = nullptr;
    std::uint64_t works = 0;  // of the stream in the capture
  };
  Status NotCaptured() const;  // mutex is held

  const int device_;
  std::shared_ptr<State> state_ = std::make_shared<State>();  // what is on streams outlives it
};

}  // namespace hora

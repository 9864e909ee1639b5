// The way of large operations: what was agreed for it and is not done, and who works on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/status.h"
#include "hora/engine/executor.h"
#include "hora/wire/agreed.h"
#include "hora/wire/request.h"
#include "hora/wire/tunables.h"

namespace hora {

// Whether what was agreed takes the bulk lane: large, of unknown size, of a negative priority, or
// on a device, which has one order only. A function of agreed data, so all ranks say the same.
bool IsBulk(const Response& response, int size, const Tuning& tuning);
// What that will be, as far as a submission tells.
bool WillBeBulk(const OpParams& params, std::uint64_t bytes, const Tuning& tuning);

// Owns the executor of the lane and a lock of its own, so that a set goes on negotiating, and runs
// what is urgent, while a large collective is under way. Whatever thread calls Run works; the order
// is that of the agreements, on every rank. Any thread may call anything.
class BulkLane {
 public:
  // A part of one agreement.
  struct Work {
    std::vector<Agreed> agreed;  // may be none
    // In force from the first of them on:
    std::optional<Tuning> tuning;
    std::shared_ptr<const SymmetricHeap> symmetric;
  };
  struct Timing {
    std::uint64_t bytes = 0;
    TimePoint began, ended;
  };

  // Of an executor with a device. `timed`: keep timings.
  BulkLane(std::unique_ptr<Executor> executor, bool timed)
      : executor_(std::move(executor)), timed_(timed) {}

  void Add(Work work);

  // Somebody should call Run.
  bool needs_runner() const { return open_.load() != 0 && !running_.load(); }
  bool idle() const { return open_.load() == 0; }

  // Works until `enough()` or nothing is left; at once done when another thread works. `after_each`
  // is called between works. Not OK: the data plane is lost; the handles are still open.
  Status Run(const std::function<bool()>& enough, const std::function<void()>& after_each);

  // Nobody runs the lane while it is held.
  std::unique_lock<std::mutex> TryLock() {
    return std::unique_lock(running_mutex_, std::try_to_lock);
  }

  // With the lock held: nothing that was added will be done any more, and its entries may end.
  void Drop();

  std::vector<Timing> TakeTimings();  // of works since the last call; none of what is on a device

  DeviceLane& device() const { return *executor_->device(); }
  // With the lock held.
  void CloseDevice(TimePoint deadline) { executor_->CloseDevice(deadline); }

 private:
  std::optional<Work> Next();
  Status Execute(const Work& work);

  std::mutex running_mutex_;  // whoever has it runs the executor
  const std::unique_ptr<Executor> executor_;
  const bool timed_;
  std::atomic<bool> running_{false};

  std::mutex backlog_mutex_;
  std::deque<Work> backlog_;          // backlog_mutex_
  std::vector<Timing> timings_;       // backlog_mutex_
  std::atomic<std::size_t> open_{0};  // works that are not done
};

}  // namespace hora

// How a process set ends: lost, or left.
#include <algorithm>
#include <string>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/engine/process_set.h"
#include "hora/engine/process_set_text.h"

namespace hora {
namespace {

// How long a rank sleeps before it looks again at what nobody would wake it for.
constexpr Duration kNextLook = std::chrono::milliseconds(10);
// For threads to come out of the lanes after an abort.
constexpr Duration kLastWait = std::chrono::seconds(5);

TimePoint Now() { return SteadyClock::Instance().Now(); }

}  // namespace

// The set is lost: say so to everybody, keep nobody waiting.
void ProcessSet::Fail(const Status& cause) {
  if (failing_.load()) return;
  board_->Abort(global_rank(), InProcessSet(options_.id, cause));  // the first one is the cause
  if (failing_.exchange(true)) return;  // whoever sees it looks for the cause on the board
  next_tick_.store(TimePoint::max().time_since_epoch().count());
  if (options_.network != nullptr) options_.network->Abort();
  AbortDevices(cause);
}

// Handles may only be given up when no lane touches their memory any more; the abort sees to that
// soon. Whoever leaves a lane tries.
void ProcessSet::CloseIfFailed() {
  if (!failing_.load() || failed_.load()) return;
  const std::unique_lock progress(progress_mutex_, std::try_to_lock);
  if (!progress.owns_lock()) return;
  const std::unique_lock bulk = bulk_.TryLock();
  if (!bulk.owns_lock() || failed_.load()) return;
  const Status cause = board_->abort_status();
  GiveUp(cause);
  Log(LogLevel::kDebug, global_rank(),
      fmt::format("process set {} failed closed: {}", options_.id, cause.message()));
  failed_.store(true);
  WakeWaiters();
  if (options_.on_failure) options_.on_failure(cause);
}

// Of an operation that failed on its way, a part may be on the device already.
void ProcessSet::GiveUp(const Status& cause) {
  bulk_.Drop();
  const EventPool::Lease rest = bulk_.device().MarkRest();
  for (const auto& handle : queue_.Close(cause)) handle->Complete(cause, {.on_device = rest});
}

void ProcessSet::Abort(const Status& cause) {
  board_->Abort(global_rank(), cause);
  if (options_.network != nullptr) options_.network->Abort();
  AbortDevices(cause);
  bell().Wake();
}

Status ProcessSet::Leave(Duration patience) {
  if (left_) return Status::Ok();
  if (Status status = LeaveGroup(patience); !status.ok()) return status;
  left_ = true;
  background_.request_stop();
  background_.join();
  return Status::Ok();
}

Status ProcessSet::LeaveGroup(Duration patience) {
  std::unique_lock ordered(ordered_mutex_, std::defer_lock);
  FinishWork(Now() + patience, ordered);
  const Status gone = InProcessSet(
      options_.id, Error(StatusCode::kShutDown, "rank {} has {}; its pending operations: {}",
                         global_rank(), options_.id == 0 ? "shut down" : "left", queue_.pending()));
  if (IsBusy() || !(ordered.owns_lock() || ordered.try_lock())) Abort(gone);
  // An abort frees whoever holds these, unless the device or NCCL does.
  const TimePoint freed_by = Now() + kLastWait;
  const auto comes = [&](const auto& try_lock) {
    while (!SpinUntil(wait_policy_, try_lock)) {
      if (Now() >= freed_by) return false;
      bell().SleepUnless([] { return false; }, Sleep::kWaiting, Now() + kNextLook);
    }
    return true;
  };
  std::unique_lock progress(progress_mutex_, std::defer_lock);
  std::unique_lock<std::mutex> bulk;
  const bool is_free = comes([&] { return progress.try_lock(); }) &&
                       comes([&] { return (bulk = bulk_.TryLock()).owns_lock(); }) &&
                       comes([&] { return ordered.owns_lock() || ordered.try_lock(); });
  if (!is_free) return CannotLeave(gone);
  if (!failing_.load() && !board_->aborted()) SayGoodbye();
  GiveUp(gone);
  failing_.store(true);
  failed_.store(true);
  CloseDevices();
  ordered_.reset();
  return Status::Ok();
}

bool ProcessSet::IsBusy() const {
  return queue_.pending() != 0 || !bulk_.idle() || bulk_.device().is_busy();
}

// Peers may already be in the middle of what this rank has submitted, so that is finished first.
void ProcessSet::FinishWork(TimePoint deadline, std::unique_lock<std::mutex>& ordered) {
  const auto busy = [&] { return IsBusy() || !(ordered.owns_lock() || ordered.try_lock()); };
  const auto can_go_on = [&] {
    return !busy() || failed_.load() || (HasWork() && !progressing_.load()) || NeedsBulkRunner();
  };
  while (busy() && !failed_.load() && Now() < deadline) {
    if (Status status = bulk_.device().Check(); !status.ok()) Fail(status);
    if (SpinUntil(wait_policy_, can_go_on)) {
      if (!HasWork() || !TryProgress()) YieldCore();
      RunBulk([] { return false; });
      CloseIfFailed();
    } else {
      bell().SleepUnless(can_go_on, Sleep::kWaiting, std::min(deadline, Now() + kNextLook));
    }
  }
}

// To go on without that thread would be a race for the memory that it works on.
Status ProcessSet::CannotLeave(const Status& gone) {
  Fail(gone);
  queue_.Refuse(gone);
  const Status stuck = InProcessSet(
      options_.id,
      Error(StatusCode::kStalled,
            "rank {} cannot leave: for {} s after the abort a thread has not come back from an "
            "operation, which the GPU, NCCL or an allocator holds. What it uses is not freed",
            global_rank(), std::chrono::duration<double>(kLastWait).count()));
  Log(LogLevel::kError, global_rank(), stuck.message());
  return stuck;
}

void ProcessSet::SayGoodbye() {
  negotiator_.Leave();
  actions_.clear();
  negotiator_.Take(actions_);
  const Status sent = control_.Send(actions_.send);
  const TimePoint flushed_by = Now() + kShutdownPatience;
  while (sent.ok() && !control_.Flush() && Now() < flushed_by) YieldCore();
}

}  // namespace hora

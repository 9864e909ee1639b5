#include "hora/collectives/nccl/nccl_comm.h"

#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/wait.h"

namespace hora {

NcclDraft::NcclDraft()
    : config{.size = sizeof(nccl::Config),
             .magic = nccl::kConfigMagic,
             .version = nccl::kConfigVersion,
             .blocking = 0,
             .cga_cluster_size = nccl::kUndefined,
             .min_ctas = nccl::kUndefined,
             .max_ctas = nccl::kUndefined,
             .net_name = nullptr,
             .split_share = nccl::kUndefined} {}

void NcclComm::Begin(std::shared_ptr<NcclDraft> draft) {
  comm_ = draft->comm;
  own_ = std::move(draft);
  begun_.store(true);
}

void NcclComm::FutexSleep(std::atomic<std::uint32_t>& word, TimePoint deadline) {
  if (word.load() == 0) FutexWait(word, 0, deadline);
}

Status NcclComm::failure() const {
  const std::lock_guard lock(failure_mutex_);
  return failure_;
}

void NcclComm::Lose(const Status& cause) {
  {
    const std::lock_guard lock(failure_mutex_);
    if (!failure_.ok()) return;
    failure_ = cause;
  }
  lost_.store(1);
  FutexWakeAll(lost_);
  Aside(&NcclComm::AbortNow);
}

void NcclComm::Finish() {
  if (!begun_.load() || ending_.exchange(true) || is_lost()) return;
  Aside(&NcclComm::FinishNow);
}

bool NcclComm::AwaitEnd(TimePoint deadline) {
  if (!begun_.load()) return true;
  while (ended_.load() == 0 && SteadyClock::Instance().Now() < deadline) {
    FutexSleep(ended_, deadline);
  }
  return ended_.load() != 0;
}

// Without a thread to end it on it stays, and whoever awaits the end says so.
void NcclComm::Aside(void (NcclComm::*end)()) {
  if (!begun_.load()) return;
  {
    const std::lock_guard lock(aside_mutex_);
    if (has_ended_) return;
    ++aside_;
  }
  try {
    std::thread([self = shared_from_this(), end] {
      if (self->enter_) self->enter_();
      ((*self).*end)();
      self->LeaveAside();
    }).detach();
  } catch (const std::system_error&) {
    LeaveAside();
  }
}

// Nobody waits for the thread itself: at the end of the process, what it lets go of after the end
// is known would go beside static destructors.
void NcclComm::LeaveAside() {
  std::shared_ptr<const NcclLibrary> library;
  std::function<void()> enter;
  {
    const std::lock_guard lock(aside_mutex_);
    if (--aside_ != 0 || !has_ended_) return;
    library = std::move(library_);
    enter = std::move(enter_);
  }
  library = nullptr;
  enter = nullptr;
  ended_.store(1);
  FutexWakeAll(ended_);
}

void NcclComm::Ended() {
  const std::lock_guard lock(aside_mutex_);
  has_ended_ = true;
}

void NcclComm::AbortNow() {
  nccl::Comm comm = nullptr;
  std::shared_ptr<NcclDraft> part;
  {
    const Turn turn = TakeTurn();  // whoever is in a call comes back first: NCCL wants it so
    if (std::exchange(taken_, true)) return;
    comm = std::exchange(comm_, nullptr);
    part = std::exchange(part_, nullptr);
  }
  if (comm != nullptr) api().abort(comm);
  if (part != nullptr && part->comm != nullptr) api().abort(part->comm);
  Ended();
}

void NcclComm::FinishNow() {
  nccl::Result state = nccl::Result::kInProgress;
  for (bool begun = false; state == nccl::Result::kInProgress; begun = true) {
    if (begun) SleepUnlessLost(SteadyClock::Instance().Now() + kNcclNap);
    const Turn turn = TakeTurn();
    if (is_lost()) return;  // the abort has begun
    if (!begun) {
      state = api().finalize(comm_);
      if (state == nccl::Result::kSuccess) state = nccl::Result::kInProgress;  // it has begun
    } else if (const nccl::Result asked = api().get_async_error(comm_, &state);
               asked != nccl::Result::kSuccess) {
      state = asked;
    }
  }
  if (state != nccl::Result::kSuccess) {
    return Lose(
        Error(StatusCode::kInternal, "NCCL cannot end a group: {}", api().get_error_string(state)));
  }
  nccl::Comm comm = nullptr;
  {
    const Turn turn = TakeTurn();
    if (std::exchange(taken_, true)) return;
    comm = std::exchange(comm_, nullptr);
  }
  api().destroy(comm);
  Ended();
}

}  // namespace hora

#include "hora/engine/process_set.h"

#include <algorithm>
#include <exception>
#include <span>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/collectives/shm/shm_backend.h"
#include "hora/control/shm_link.h"
#include "hora/engine/process_set_text.h"
#include "hora/engine/stall_log.h"
#include "hora/engine/submission.h"

namespace hora {
namespace {

constexpr Duration kLongestSleep = std::chrono::minutes(1);
// Asynchronous submissions smaller than this in all do not wake the background thread one by one …
constexpr std::size_t kWorthWaking = 256u << 10;
// … but gather for so long, unless somebody waits for them before.
constexpr Duration kCollectFor = std::chrono::microseconds(500);

// How long a rank that leaves sleeps before it looks at what is pending again.
constexpr Duration kLeavingCheck = std::chrono::milliseconds(10);

TimePoint Now() { return SteadyClock::Instance().Now(); }

TreePosition TreeOf(const ProcessSetOptions& options) {
  return TreePosition::Of(options.rank, options.board->size(), options.tunables.tree_fan_out);
}

ControlPlane Connect(const ProcessSetOptions& options) {
  const TreePosition position = TreeOf(options);
  const int self = options.rank;
  std::vector<ControlPlane::Edge> edges;
  if (!position.is_root()) {
    edges.push_back({.neighbour = position.parent,
                     .link = ShmLink::ToParent(options.board, self, position.parent, options.names),
                     .to_child = false});
  }
  for (const int child : position.children) {
    edges.push_back(
        {.neighbour = child, .link = ShmLink::ToChild(options.board, self, child, options.names)});
  }
  return ControlPlane(std::move(edges), options.names);
}

NegotiatorOptions ForNegotiator(const ProcessSetOptions& options) {
  return {.position = TreeOf(options),
          .cache_capacity = options.tunables.cache_capacity,
          .stall_warning = options.config.stall_warning,
          .stall_abort = options.config.stall_abort,
          .names = options.names};
}

ExecutorOptions ForExecutor(const ProcessSetOptions& options) {
  return {.process_set = options.id,
          .rank = options.rank,
          .size = options.board->size(),
          .names = options.names,
          .tuning = options.tunables.tuning,
          .join_divides_by_size = options.tunables.join_divides_by_size != 0};
}

std::vector<std::unique_ptr<CollectiveBackend>> MakeBackends(const ProcessSetOptions& options,
                                                             const WaitPolicy& wait) {
  std::vector<std::unique_ptr<CollectiveBackend>> backends;
  backends.push_back(std::make_unique<ShmBackend>(
      options.board, ShmLaneOptions{.rank = options.rank,
                                    .wait = wait,
                                    .patience = options.config.stall_abort,
                                    .names = options.names}));
  return backends;
}

std::uint64_t BytesOf(const TensorEntry& entry) {
  std::uint64_t bytes = entry.input.nbytes();
  for (const TensorPair& pair : entry.rest) bytes += pair.input.nbytes();
  return bytes;
}

}  // namespace

ProcessSet::ProcessSet(ProcessSetOptions options)
    : options_(std::move(options)),
      board_(options_.board),
      wait_policy_(WaitPolicy::For(board_->size(), UsableCores())),
      control_(Connect(options_)),
      negotiator_(ForNegotiator(options_)),
      executor_(ForExecutor(options_), MakeBackends(options_, wait_policy_), queue_,
                *options_.observer),
      tuning_(options_.tunables.tuning),
      next_tick_(TimePoint::max().time_since_epoch().count()),
      background_([this](std::stop_token stop) { RunInBackground(std::move(stop)); }) {}

ProcessSet::~ProcessSet() { Leave(); }

Tuning ProcessSet::tuning() const {
  const std::lock_guard lock(tuning_mutex_);
  return tuning_;
}

Status ProcessSet::Submit(TensorEntry entry, bool will_wait) {
  Status status = CheckSubmission(entry, options_.rank, size(), options_.names);
  if (!status.ok()) return InProcessSet(options_.id, std::move(status));
  const Request& request = entry.request;
  options_.observer->OnSubmit({options_.id, request.params.kind, request.name}, BytesOf(entry));
  status = queue_.Push(std::move(entry));
  // What has closed the queue says by itself where it happened.
  if (status.code() == StatusCode::kInvalidArgument) return InProcessSet(options_.id, status);
  if (!status.ok()) return status;
  const bool will_be_seen =
      will_wait || (collecting_.load() && queue_.fresh_bytes() < kWorthWaking);
  if (!will_be_seen) bell().Ring(/*urgent=*/true);
  return Status::Ok();
}

WakeReason ProcessSet::Wait(const Handle& handle, TimePoint deadline) {
  if (handle.done()) return WakeReason::kWoken;
  const auto can_go_on = [&] { return handle.done() || (HasWork() && !progressing_.load()); };
  WakeReason reason = WakeReason::kWoken;
  while (!handle.done()) {
    bell().BeginAttending();
    while (!handle.done() && SpinUntil(wait_policy_, can_go_on)) {
      if (!handle.done()) TryProgress();
    }
    bell().EndAttending();
    if (handle.done()) break;
    const TimePoint tick{Duration(next_tick_.load())};
    reason = bell().SleepUnless(can_go_on, Sleep::kWaiting, std::min(deadline, tick));
    if (reason == WakeReason::kInterrupted) break;
    if (reason == WakeReason::kWoken) continue;
    if (Now() >= tick) TryProgress();
    if (Now() >= deadline && !handle.done()) break;
  }
  HandOver();
  return handle.done() ? WakeReason::kWoken : reason;
}

// The caller stops working for the set: the background thread takes over what is left.
void ProcessSet::HandOver() {
  const bool unattended = queue_.pending() != 0 && !bell().attended();
  if (unattended && (HasWork() || bell().sleepers(Sleep::kIdle) != 0)) bell().Wake();
}

bool ProcessSet::HasWork() const {
  if (failed_.load()) return false;
  return queue_.has_fresh() || control_.NeedsAttention() || board_->aborted();
}

bool ProcessSet::TryProgress() {
  if (!progress_mutex_.try_lock()) return false;
  progressing_.store(true);
  try {
    if (!failed_.load()) Progress();
  } catch (const std::exception& failure) {
    FailClosed(Error(StatusCode::kInternal, "rank {}: {}", global_rank(), failure.what()));
  }
  progressing_.store(false);
  progress_mutex_.unlock();
  // Other threads of this rank may have slept on a handle that is done now, or on the lock.
  if (bell().sleepers(Sleep::kWaiting) != 0) bell().Wake();
  return true;
}

void ProcessSet::Progress() {
  if (board_->aborted()) return FailClosed(board_->abort_status());
  const TimePoint now = Now();
  // Drain
  queue_.Drain(fresh_);
  for (Request& request : fresh_) negotiator_.Submit(std::move(request), now);
  fresh_.clear();
  // Negotiate
  if (Status status = control_.Receive(negotiator_, now); !status.ok()) return FailClosed(status);
  if (now.time_since_epoch().count() >= next_tick_.load()) negotiator_.Tick(now);
  actions_.clear();
  negotiator_.Take(actions_);
  next_tick_.store(negotiator_.NextDeadline().time_since_epoch().count());
  if (Status status = control_.Send(actions_.send); !status.ok()) return FailClosed(status);
  control_.Flush();
  // PlanFusion, Execute, Complete
  LogStalls(options_.id, global_rank(), options_.names, actions_.stalled);
  for (const auto& [name, status] : actions_.reject) executor_.Refuse(name, status);
  if (Status status = ExecuteAgreed(); !status.ok()) return FailClosed(status);
  if (!actions_.failure.ok()) FailClosed(actions_.failure);
}

// Agreement by agreement: one Progress may see two of them together where another rank sees them
// apart, and both must form the same batches, with the same tuning.
Status ProcessSet::ExecuteAgreed() {
  if (Status status = HandDownDecisions(); !status.ok()) return status;
  std::size_t begin = 0;
  auto next = actions_.tunings.begin();
  const auto adopt_up_to = [&](std::size_t first) {
    for (; next != actions_.tunings.end() && next->first <= first; ++next) Adopt(next->tuning);
  };
  for (const std::size_t end : actions_.agreement_ends) {
    adopt_up_to(begin);
    const TimePoint began = options_.autotune != nullptr ? Now() : TimePoint{};
    const auto agreed = std::span(actions_.execute).subspan(begin, end - begin);
    if (Status status = executor_.Execute(agreed); !status.ok()) return status;
    if (options_.autotune != nullptr) FeedAutotune(began);
    begin = end;
  }
  adopt_up_to(begin);
  return Status::Ok();
}

// A collective waits for ranks below this one, so all of an agreement must be on its way to them
// before: what does not fit into a ring now would otherwise wait here for this very collective.
// They take it: whatever they are busy with was handed down before, to everybody. What is still to
// be told to the parent may wait; this rank takes part without it.
Status ProcessSet::HandDownDecisions() {
  if (actions_.execute.empty() || control_.FlushToChildren()) return Status::Ok();
  const Duration patience = options_.config.stall_abort;
  Status status = board_->Await(options_.rank, wait_policy_, Now() + patience,
                                [&] { return control_.FlushToChildren(); });
  if (status.code() != StatusCode::kTimeout) return status;
  return Error(StatusCode::kStalled,
               "rank {} could not hand an agreement down for {:.3g} s: the ranks below it do not "
               "listen. Look at what they are doing",
               global_rank(), std::chrono::duration<double>(patience).count());
}

void ProcessSet::Adopt(const Tuning& tuning) {
  executor_.Retune(tuning);
  const std::lock_guard lock(tuning_mutex_);
  tuning_ = tuning;
}

void ProcessSet::FeedAutotune(TimePoint began) {
  const std::uint64_t bytes = executor_.moved_bytes() - autotuned_bytes_;
  autotuned_bytes_ = executor_.moved_bytes();
  const auto better = options_.autotune->Step(bytes, began, Now());
  if (better) negotiator_.Retune(*better);
}

// Progress lock held. The set is lost: say so to everybody, keep nobody waiting.
void ProcessSet::FailClosed(const Status& cause) {
  if (failed_.exchange(true)) return;
  next_tick_.store(TimePoint::max().time_since_epoch().count());
  board_->Abort(options_.rank, InProcessSet(options_.id, cause));
  const Status first_cause = board_->abort_status();
  for (const auto& handle : queue_.Close(first_cause)) handle->Complete(first_cause);
  Log(LogLevel::kDebug, global_rank(),
      fmt::format("process set {} failed closed: {}", options_.id, first_cause.message()));
  if (options_.on_failure) options_.on_failure(first_cause);
}

void ProcessSet::RunInBackground(std::stop_token stop) {
  const std::stop_callback wake_to_stop(stop, [this] { bell().Wake(); });
  const auto must_wake = [&] {
    return stop.stop_requested() || (HasWork() && !bell().attended() && !progressing_.load());
  };
  while (!stop.stop_requested()) {
    // Another thread that works for the set is better placed than this one.
    const TimePoint tick{Duration(next_tick_.load())};
    if (!bell().attended() && queue_.has_fresh()) CollectSubmissions(stop);
    if (!bell().attended() && (HasWork() || Now() >= tick) && TryProgress()) continue;
    const Sleep depth = queue_.pending() != 0 ? Sleep::kBackup : Sleep::kIdle;
    bell().SleepUnless(must_wake, depth, std::min(tick, Now() + kLongestSleep));
  }
}

// A backward pass submits gradients one after the other. Waking up for each of them would take the
// core from that very pass, so the first one opens a window in which the next ones make no noise.
void ProcessSet::CollectSubmissions(const std::stop_token& stop) {
  const auto enough = [&] {
    return stop.stop_requested() || bell().attended() || board_->aborted() ||
           queue_.fresh_bytes() >= kWorthWaking;
  };
  collecting_.store(true);
  bell().SleepUnless(enough, Sleep::kIdle, Now() + kCollectFor);
  collecting_.store(false);
}

void ProcessSet::Abort(const Status& cause) {
  board_->Abort(options_.rank, cause);
  bell().Wake();
}

void ProcessSet::Leave(Duration patience) {
  if (left_) return;
  left_ = true;
  LeaveGroup(patience);
  background_.request_stop();
  background_.join();
}

// Peers may already be in the middle of what this rank has submitted, so that is finished first.
void ProcessSet::LeaveGroup(Duration patience) {
  const TimePoint deadline = Now() + patience;
  const auto can_go_on = [&] {
    return queue_.pending() == 0 || failed_.load() || (HasWork() && !progressing_.load());
  };
  while (queue_.pending() != 0 && !failed_.load() && Now() < deadline) {
    if (SpinUntil(wait_policy_, can_go_on)) {
      if (!HasWork() || !TryProgress()) YieldCore();
    } else {
      bell().SleepUnless(can_go_on, Sleep::kWaiting, std::min(deadline, Now() + kLeavingCheck));
    }
  }
  const Status gone = InProcessSet(
      options_.id, Error(StatusCode::kShutDown, "rank {} has {}; its pending operations: {}",
                         global_rank(), options_.id == 0 ? "shut down" : "left", queue_.pending()));
  if (queue_.pending() != 0) board_->Abort(options_.rank, gone);
  while (!progress_mutex_.try_lock()) YieldCore();  // an abort has freed whoever holds it
  if (!failed_.load() && !board_->aborted()) {
    negotiator_.Leave();
    actions_.clear();
    negotiator_.Take(actions_);
    const Status sent = control_.Send(actions_.send);
    const TimePoint flushed_by = Now() + kShutdownPatience;
    while (sent.ok() && !control_.Flush() && Now() < flushed_by) YieldCore();
  }
  for (const auto& handle : queue_.Close(gone)) handle->Complete(gone);
  failed_.store(true);
  progress_mutex_.unlock();
}

}  // namespace hora

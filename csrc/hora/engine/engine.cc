#include "hora/engine/engine.h"

#include <algorithm>
#include <exception>
#include <span>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/collectives/shm/shm_backend.h"
#include "hora/control/shm_link.h"
#include "hora/engine/submission.h"
#include "hora/negotiation/wording.h"

namespace hora {
namespace {

constexpr Duration kLongestSleep = std::chrono::minutes(1);
// Asynchronous submissions smaller than this in all do not wake the background thread one by one …
constexpr std::size_t kWorthWaking = 256u << 10;
// … but gather for so long, unless somebody waits for them before.
constexpr Duration kCollectFor = std::chrono::microseconds(500);
constexpr Duration kShutdownPatience = std::chrono::seconds(2);

TimePoint Now() { return SteadyClock::Instance().Now(); }

std::vector<ControlPlane::Edge> Connect(const TreePosition& position,
                                        const std::shared_ptr<Board>& board) {
  std::vector<ControlPlane::Edge> edges;
  if (!position.is_root()) {
    edges.push_back({position.parent, ShmLink::ToParent(board, position.rank, position.parent)});
  }
  for (const int child : position.children) {
    edges.push_back({child, ShmLink::ToChild(board, position.rank, child)});
  }
  return edges;
}

NegotiatorOptions OptionsOf(const Topology& topology, const Config& config,
                            const Tunables& tunables) {
  return {.position = TreePosition::Of(topology.rank, topology.size, tunables.tree_fan_out),
          .cache_capacity = tunables.cache_capacity,
          .stall_warning = config.stall_warning,
          .stall_abort = config.stall_abort};
}

std::vector<std::unique_ptr<CollectiveBackend>> MakeBackends(const Topology& topology,
                                                             const Config& config,
                                                             const std::shared_ptr<Board>& board,
                                                             const WaitPolicy& wait) {
  std::vector<std::unique_ptr<CollectiveBackend>> backends;
  backends.push_back(std::make_unique<ShmBackend>(
      board,
      ShmBackendOptions{.rank = topology.rank, .wait = wait, .patience = config.stall_abort}));
  return backends;
}

std::string DescribeStall(const StallSummary& stall) {
  const std::string missing = RanksText(stall.missing);
  return fmt::format(
      "{} has waited {:.1f} s: submitted by {}, missing on {}. Every rank must submit the same "
      "names; "
      "did {} skip a step, fail, or fall behind?",
      Quoted(stall.name), stall.waited_ms / 1000.0, RanksText(stall.submitted), missing, missing);
}

// A rank that skips a whole step leaves hundreds of names behind; the first few tell enough.
void LogStalls(int rank, std::span<const StallSummary> stalls) {
  constexpr std::size_t kMostLines = 5;
  for (const StallSummary& stall : stalls.first(std::min(stalls.size(), kMostLines))) {
    Log(LogLevel::kWarning, rank, DescribeStall(stall));
  }
  if (stalls.size() > kMostLines) {
    Log(LogLevel::kWarning, rank, fmt::format("{} more wait as well", stalls.size() - kMostLines));
  }
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Start(const Topology& topology, const Config& config,
                                              HostGroup group) {
  try {
    return std::unique_ptr<Engine>(new Engine(topology, config, std::move(group)));
  } catch (const std::exception& failure) {  // no memory, no thread
    return Fail(Error(StatusCode::kResource, "rank {}: the engine cannot start: {}", topology.rank,
                      failure.what()));
  }
}

Engine::Engine(const Topology& topology, const Config& config, HostGroup group)
    : topology_(topology),
      board_(group.board),
      wait_policy_(WaitPolicy::For(group.board->size(), UsableCores())),
      control_(Connect(OptionsOf(topology, config, group.tunables).position, group.board)),
      negotiator_(OptionsOf(topology, config, group.tunables)),
      executor_(topology.size, group.tunables.fusion_threshold_bytes,
                MakeBackends(topology, config, group.board, wait_policy_), queue_, metrics_),
      next_tick_(TimePoint::max().time_since_epoch().count()),
      liveness_(topology.rank, std::move(group.peers), group.board),
      background_([this](std::stop_token stop) { RunInBackground(std::move(stop)); }) {}

Engine::~Engine() { Shutdown(); }

Status Engine::Submit(TensorEntry entry, bool will_wait) {
  if (Status status = CheckSubmission(entry, topology_.size); !status.ok()) return status;
  metrics_.OnSubmit(entry.request.params.kind, entry.request.name, entry.input.nbytes());
  if (Status status = queue_.Push(std::move(entry)); !status.ok()) return status;
  const bool will_be_seen =
      will_wait || (collecting_.load() && queue_.fresh_bytes() < kWorthWaking);
  if (!will_be_seen) bell().Ring(/*urgent=*/true);
  return Status::Ok();
}

WakeReason Engine::Wait(const Handle& handle, TimePoint deadline) {
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

// The caller stops working for the engine: the background thread takes over what is left.
void Engine::HandOver() {
  const bool unattended = queue_.pending() != 0 && !bell().attended();
  if (unattended && (HasWork() || bell().sleepers(Sleep::kIdle) != 0)) bell().Wake();
}

bool Engine::HasWork() const {
  if (failed_.load()) return false;
  return queue_.has_fresh() || control_.NeedsAttention() || board_->aborted();
}

bool Engine::TryProgress() {
  if (!progress_mutex_.try_lock()) return false;
  progressing_.store(true);
  try {
    if (!failed_.load()) Progress();
  } catch (const std::exception& failure) {
    FailClosed(Error(StatusCode::kInternal, "rank {}: {}", topology_.rank, failure.what()));
  }
  progressing_.store(false);
  progress_mutex_.unlock();
  // Other threads of this rank may have slept on a handle that is done now, or on the lock.
  if (bell().sleepers(Sleep::kWaiting) != 0) bell().Wake();
  return true;
}

void Engine::Progress() {
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
  LogStalls(topology_.rank, actions_.stalled);
  for (auto& [name, status] : actions_.reject) executor_.Complete(name, std::move(status));
  if (Status status = ExecuteAgreed(); !status.ok()) return FailClosed(status);
  if (!actions_.failure.ok()) FailClosed(actions_.failure);
}

// Agreement by agreement: one Progress may see two of them together where another rank sees them
// apart, and both must form the same batches.
Status Engine::ExecuteAgreed() {
  std::size_t begin = 0;
  for (const std::size_t end : actions_.agreement_ends) {
    const auto agreed = std::span(actions_.execute).subspan(begin, end - begin);
    if (Status status = executor_.Execute(agreed); !status.ok()) return status;
    begin = end;
  }
  return Status::Ok();
}

// Progress lock held. The group is lost: say so to everybody, keep nobody waiting.
void Engine::FailClosed(const Status& cause) {
  if (failed_.exchange(true)) return;
  next_tick_.store(TimePoint::max().time_since_epoch().count());
  board_->Abort(topology_.rank, cause);
  const Status first_cause = board_->abort_status();
  for (const auto& handle : queue_.Close(first_cause)) handle->Complete(first_cause);
  Log(LogLevel::kDebug, topology_.rank, fmt::format("failed closed: {}", first_cause.message()));
}

void Engine::RunInBackground(std::stop_token stop) {
  const std::stop_callback wake_to_stop(stop, [this] { bell().Wake(); });
  const auto must_wake = [&] {
    return stop.stop_requested() || (HasWork() && !bell().attended() && !progressing_.load());
  };
  while (!stop.stop_requested()) {
    // Another thread that works for the engine is better placed than this one.
    const TimePoint tick{Duration(next_tick_.load())};
    if (!bell().attended() && queue_.has_fresh()) CollectSubmissions(stop);
    if (!bell().attended() && (HasWork() || Now() >= tick) && TryProgress()) continue;
    const Sleep depth = queue_.pending() != 0 ? Sleep::kBackup : Sleep::kIdle;
    bell().SleepUnless(must_wake, depth, std::min(tick, Now() + kLongestSleep));
  }
}

// A backward pass submits gradients one after the other. Waking up for each of them would take the
// core from that very pass, so the first one opens a window in which the next ones make no noise.
void Engine::CollectSubmissions(const std::stop_token& stop) {
  const auto enough = [&] {
    return stop.stop_requested() || bell().attended() || board_->aborted() ||
           queue_.fresh_bytes() >= kWorthWaking;
  };
  collecting_.store(true);
  bell().SleepUnless(enough, Sleep::kIdle, Now() + kCollectFor);
  collecting_.store(false);
}

void Engine::Abort(const Status& cause) {
  board_->Abort(topology_.rank, cause);
  bell().Wake();
}

void Engine::Shutdown() {
  if (left_) return;
  left_ = true;
  LeaveGroup();
  background_.request_stop();
  background_.join();
  liveness_.SayGoodbye();
}

// Peers may already be in the middle of what this rank has submitted, so that is finished first.
void Engine::LeaveGroup() {
  const TimePoint deadline = Now() + kShutdownPatience;
  while (queue_.pending() != 0 && !failed_.load() && Now() < deadline) {
    if (!HasWork() || !TryProgress()) YieldCore();
  }
  const Status gone =
      Error(StatusCode::kShutDown, "rank {} has shut down; its pending operations: {}",
            topology_.rank, queue_.pending());
  if (queue_.pending() != 0) board_->Abort(topology_.rank, gone);
  while (!progress_mutex_.try_lock()) YieldCore();  // an abort has freed whoever holds it
  if (!failed_.load() && !board_->aborted()) {
    negotiator_.Leave();
    actions_.clear();
    negotiator_.Take(actions_);
    const Status sent = control_.Send(actions_.send);
    while (sent.ok() && !control_.Flush() && Now() < deadline) YieldCore();
  }
  for (const auto& handle : queue_.Close(gone)) handle->Complete(gone);
  failed_.store(true);
  progress_mutex_.unlock();
}

}  // namespace hora

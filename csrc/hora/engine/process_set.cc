#include "hora/engine/process_set.h"

#include <algorithm>
#include <exception>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/engine/agreement.h"
#include "hora/engine/farewell.h"
#include "hora/engine/process_set_text.h"
#include "hora/engine/set_wiring.h"
#include "hora/engine/stall_log.h"
#include "hora/engine/submission.h"

namespace hora {
namespace {

constexpr Duration kLongestSleep = std::chrono::minutes(1);
// Asynchronous submissions smaller than `bytes` in all do not wake the background thread one by one
// but gather for so long, unless somebody waits for them before. Where every core has a rank that
// computes on it, to start early only takes the core from that rank.
struct Gathering {
  std::size_t bytes;
  Duration time;
};
constexpr Gathering GatheringOn(bool spare_cores) {
  return spare_cores ? Gathering{256u << 10, std::chrono::microseconds(500)}
                     : Gathering{32u << 20, std::chrono::milliseconds(5)};
}

// How long a rank sleeps before it looks again at what nobody would wake it for.
constexpr Duration kNextLook = std::chrono::milliseconds(10);

// Nothing else has this name.
constexpr std::string_view kSymmetricMemoryName = "hora.symmetric_memory";

// Over a network a step takes a while, with other ranks' turns in it; and whoever sleeps is late
// for the next one, so that its peers sleep, too: then each step costs all of them a wake-up.
constexpr Duration kNetworkPatience = std::chrono::milliseconds(1);

WaitPolicy PolicyOf(const ProcessSetOptions& options) {
  WaitPolicy policy = WaitPolicy::For(options.ranks_on_host, UsableCores());
  if (options.network != nullptr) policy.yield_for = kNetworkPatience;
  return policy;
}

TimePoint Now() { return SteadyClock::Instance().Now(); }

std::vector<std::unique_ptr<CollectiveBackend>> ListOf(std::unique_ptr<CollectiveBackend> one) {
  std::vector<std::unique_ptr<CollectiveBackend>> backends;
  backends.push_back(std::move(one));
  return backends;
}

std::unique_ptr<Executor> MakeExecutor(const ProcessSetOptions& options, Lane lane,
                                       const WaitPolicy& wait, const Interruption& interruption,
                                       TensorQueue& queue) {
  std::unique_ptr<CollectiveBackend> host = MakeBackend(options, lane, wait, interruption);
  std::unique_ptr<DeviceLane> device = MakeDeviceLane(options, lane, *host, interruption);
  return std::make_unique<Executor>(ForExecutor(options, lane), ListOf(std::move(host)),
                                    std::move(device), queue, *options.observer);
}

std::uint64_t BytesOf(const TensorEntry& entry) {
  std::uint64_t bytes = entry.input.nbytes();
  for (const TensorPair& pair : entry.rest) bytes += pair.input.nbytes();
  return bytes;
}

}  // namespace

ProcessSet::ProcessSet(ProcessSetOptions options)
    : options_(std::move(options)),
      size_(options_.layout.size()),
      local_(options_.layout.local_of(options_.rank)),
      board_(options_.board),
      has_spare_cores_(UsableCores() > options_.ranks_on_host),
      wait_policy_(PolicyOf(options_)),
      control_(Connect(options_)),
      negotiator_(ForNegotiator(options_)),
      urgent_(ForExecutor(options_, Lane::kUrgent),
              ListOf(MakeBackend(options_, Lane::kUrgent, wait_policy_)), nullptr, queue_,
              *options_.observer),
      bulk_(MakeExecutor(options_, Lane::kBulk, wait_policy_,
                         {.wanted = [this] { return HasWork() || urgent_waiters_ != 0; },
                          .give_way = [this] { return GiveWay(); }},
                         queue_),
            /*timed=*/options_.autotune != nullptr),
      ordered_(MakeBackend(options_, Lane::kOrdered, wait_policy_)),
      ordered_device_(MakeDeviceLane(options_, Lane::kOrdered, *ordered_)),
      tuning_(options_.tunables.tuning),
      next_tick_(TimePoint::max().time_since_epoch().count()),
      background_([this](std::stop_token stop) { RunInBackground(std::move(stop)); }) {}

std::shared_ptr<ProcessSet> ProcessSet::Make(ProcessSetOptions options) {
  return {new ProcessSet(std::move(options)), [](ProcessSet* set) {
            const auto leave = [set] { return set->Leave(); };
            const std::string what = fmt::format("process set {}", set->id());
            if (ComesToAnEnd(leave, set->global_rank(), what)) delete set;
          }};
}

// To go on would be a race for the memory that a stuck thread works on.
ProcessSet::~ProcessSet() {
  if (!Leave().ok()) std::terminate();
}

Tuning ProcessSet::tuning() const {
  const std::lock_guard lock(tuning_mutex_);
  return tuning_;
}

Status ProcessSet::Submit(TensorEntry&& entry, bool will_wait) {
  Status status = CheckSubmission(entry, options_.rank, size(), options_.names);
  const Request& request = entry.request;
  if (status.ok() && IsOnDevice(request.params)) {
    status = ChooseDevice(request, *options_.resources.device);
  }
  if (!status.ok()) return InProcessSet(options_.id, std::move(status));
  const std::uint64_t bytes = BytesOf(entry);
  options_.observer->OnSubmit({options_.id, request.params.kind, request.name}, bytes);
  entry.handle->set_bulk(WillBeBulk(request.params, bytes, options_.tunables.tuning));
  status = queue_.Push(std::move(entry));
  // What has closed the queue says by itself where it happened.
  if (status.code() == StatusCode::kInvalidArgument) return InProcessSet(options_.id, status);
  if (!status.ok()) return status;
  const bool will_be_seen =
      will_wait ||
      (collecting_.load() && queue_.fresh_bytes() < GatheringOn(has_spare_cores_).bytes);
  if (!will_be_seen) bell().Ring(/*urgent=*/true);
  return Status::Ok();
}

void ProcessSet::Flush() {
  if (!has_spare_cores_ || !queue_.has_fresh()) return;
  flushed_.store(true);
  bell().Wake();
}

WakeReason ProcessSet::Wait(const Handle& handle, TimePoint deadline) {
  if (handle.done()) return WakeReason::kWoken;
  std::atomic<int>& waiters = handle.is_bulk() ? bulk_waiters_ : urgent_waiters_;
  const auto can_go_on = [&] {
    return handle.done() || (HasWork() && !progressing_.load()) ||
           (handle.is_bulk() && bulk_.needs_runner() && !failing_.load());
  };
  waiters.fetch_add(1);
  WakeReason reason = WakeReason::kWoken;
  while (!handle.done()) {
    bell().BeginAttending();
    while (!handle.done() && SpinUntil(wait_policy_, can_go_on)) {
      if (!handle.done()) Work(handle);
    }
    bell().EndAttending();
    if (handle.done()) break;
    const TimePoint tick{Duration(next_tick_.load())};
    control_.Arm();
    reason = bell().SleepUnless(can_go_on, Sleep::kWaiting, std::min(deadline, tick));
    if (reason == WakeReason::kInterrupted) break;
    if (reason == WakeReason::kWoken) continue;
    if (Now() >= tick) Work(handle);
    if (Now() >= deadline && !handle.done()) break;
  }
  waiters.fetch_sub(1);
  HandOver();
  return handle.done() ? WakeReason::kWoken : reason;
}

// What a thread that waits for a handle does meanwhile.
void ProcessSet::Work(const Handle& awaited) {
  TryProgress();
  if (awaited.is_bulk()) {
    RunBulk([&] { return awaited.done(); });
  } else if (NeedsBulkRunner()) {
    bell().Wake();  // the background thread
  }
  CloseIfFailed();
}

// The caller stops working for the set: the background thread takes over what is left.
void ProcessSet::HandOver() {
  const bool unattended = queue_.pending() != 0 && !bell().attended();
  const bool has_work = HasWork() || NeedsBulkRunner() || unarmed_.load();
  if (unattended && (has_work || bell().sleepers(Sleep::kIdle) != 0)) bell().Wake();
}

bool ProcessSet::HasWork() const {
  if (failed_.load()) return false;
  return queue_.has_fresh() || control_.NeedsAttention() || board_->aborted();
}

// And no thread waits that will be it.
bool ProcessSet::NeedsBulkRunner() const {
  return bulk_.needs_runner() && bulk_waiters_.load() == 0 && !failing_.load();
}

bool ProcessSet::TryProgress() {
  if (!progress_mutex_.try_lock()) return false;
  progressing_.store(true);
  try {
    if (!failing_.load()) Progress();
  } catch (const std::exception& failure) {
    Fail(Error(StatusCode::kInternal, "rank {}: {}", global_rank(), failure.what()));
  }
  progressing_.store(false);
  progress_mutex_.unlock();
  WakeWaiters();
  return true;
}

// Other threads of this rank may have slept on a handle that is done now, or on a lock.
void ProcessSet::WakeWaiters() const {
  if (bell().sleepers(Sleep::kWaiting) != 0) bell().Wake();
}

void ProcessSet::RunBulk(const std::function<bool()>& enough) {
  if (!bulk_.needs_runner() || failing_.load()) return;
  try {
    const Status status = bulk_.Run(enough, [this] { WakeWaiters(); });
    if (!status.ok()) Fail(status);
  } catch (const std::exception& failure) {
    Fail(Error(StatusCode::kInternal, "rank {}: {}", global_rank(), failure.what()));
  }
  const bool sleeps = bell().sleepers(Sleep::kIdle) + bell().sleepers(Sleep::kBackup) != 0;
  if (sleeps && NeedsDeviceWatch()) bell().Wake();
}

// A large collective must not keep small ones waiting, be it for agreement or for this core.
Status ProcessSet::GiveWay() {
  if (HasWork()) TryProgress();
  if (urgent_waiters_.load() != 0) YieldCore();
  return failing_.load() ? board_->abort_status() : Status::Ok();
}

void ProcessSet::Progress() {
  if (board_->aborted()) return Fail(board_->abort_status());
  const TimePoint now = Now();
  // Drain
  queue_.Drain(fresh_);
  for (TensorEntry* entry : fresh_) negotiator_.Submit(entry->request, now, entry);
  fresh_.clear();
  // Negotiate
  if (Status status = control_.Receive(negotiator_, now); !status.ok()) return Fail(status);
  if (now.time_since_epoch().count() >= next_tick_.load()) negotiator_.Tick(now);
  actions_.clear();
  negotiator_.Take(actions_);
  next_tick_.store(negotiator_.NextDeadline().time_since_epoch().count());
  if (Status status = control_.Send(actions_.send); !status.ok()) return Fail(status);
  backed_up_.store(!control_.Flush());
  // PlanFusion, Execute, Complete
  LogStalls(options_.id, global_rank(), options_.names, actions_.stalled);
  for (const auto& rejection : actions_.reject) urgent_.Refuse(rejection.entry, rejection.status);
  if (Status status = ExecuteAgreed(); !status.ok()) return Fail(status);
  for (const auto& [bytes, began, ended] : bulk_.TakeTimings()) FeedAutotune(bytes, began, ended);
  if (!actions_.failure.ok()) Fail(actions_.failure);
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
    const auto agreed = std::span(actions_.execute).subspan(begin, end - begin);
    if (symmetric_is_new_.load()) AnnounceSymmetricMemory(agreed);
    if (Status status = ExecuteLanes(agreed); !status.ok()) return status;
    begin = end;
  }
  adopt_up_to(begin);
  return Status::Ok();
}

// The barrier under this name is agreed by all, so what follows it follows it everywhere.
void ProcessSet::AnnounceSymmetricMemory(std::span<const Agreed> agreed) {
  const auto announces = [](const Agreed& each) {
    return each->params.kind == OpKind::kBarrier && each->name == kSymmetricMemoryName &&
           each->error.ok();
  };
  if (std::ranges::none_of(agreed, announces)) return;
  urgent_.LookForSymmetricMemory(symmetric_);
  bulk_.Add({.symmetric = symmetric_});
  symmetric_is_new_.store(false);
}

// What is bulk is left to whoever runs that lane next.
Status ProcessSet::ExecuteLanes(std::span<Agreed> agreed) {
  for (const Agreed& each : agreed) {
    options_.observer->OnAgreed({options_.id, each->params.kind, each->name});
  }
  const auto priority = [](const Agreed& each) { return each->params.priority; };
  if (!std::ranges::is_sorted(agreed, std::greater<>(), priority)) {
    std::ranges::stable_sort(agreed, std::greater<>(), priority);
  }
  const auto is_urgent = [&](const Agreed& each) { return !IsBulk(*each, size(), tuning_); };
  if (!std::ranges::all_of(agreed, is_urgent)) {
    const auto bulk = std::ranges::stable_partition(agreed, is_urgent);
    bulk_.Add({.agreed = {std::move_iterator(bulk.begin()), std::move_iterator(bulk.end())}});
    agreed = agreed.first(agreed.size() - bulk.size());
  }
  if (agreed.empty()) return Status::Ok();
  const bool timed = options_.autotune != nullptr;
  const TimePoint began = timed ? Now() : TimePoint{};
  const std::uint64_t before = urgent_.moved_bytes();
  Status status = urgent_.Execute(agreed);
  if (timed && status.ok()) FeedAutotune(urgent_.moved_bytes() - before, began, Now());
  return status;
}

// A collective waits for ranks below this one, so all of an agreement must be on its way to them
// before: what does not fit into a ring now would otherwise wait here for this very collective.
// They take it: whatever they are busy with was handed down before, to everybody. What is still to
// be told to the parent may wait; this rank takes part without it.
Status ProcessSet::HandDownDecisions() {
  if (actions_.execute.empty() || control_.FlushToChildren()) return Status::Ok();
  const Duration patience = options_.config.stall_abort;
  const TimePoint deadline = Now() + patience;
  Status status(StatusCode::kTimeout, "");
  while (status.code() == StatusCode::kTimeout && Now() < deadline) {
    // Nothing rings when another host has made room.
    status = board_->Await(local_, wait_policy_, std::min(deadline, Now() + kNextLook),
                           [&] { return control_.FlushToChildren(); });
  }
  if (status.code() != StatusCode::kTimeout) return status;
  return Error(StatusCode::kStalled,
               "rank {} could not hand an agreement down for {:.3g} s: the ranks below it do not "
               "listen. Look at what they are doing",
               global_rank(), std::chrono::duration<double>(patience).count());
}

void ProcessSet::Adopt(const Tuning& tuning) {
  urgent_.Retune(tuning);
  bulk_.Add({.agreed = {}, .tuning = tuning});
  const std::lock_guard lock(tuning_mutex_);
  tuning_ = tuning;
}

void ProcessSet::FeedAutotune(std::uint64_t bytes, TimePoint began, TimePoint ended) {
  const auto better = options_.autotune->Step(bytes, began, ended);
  if (better) negotiator_.Retune(*better);
}

Status ProcessSet::LookForSymmetricMemory(std::shared_ptr<const SymmetricHeap> heap,
                                          Duration patience) {
  symmetric_ = std::move(heap);
  symmetric_is_new_.store(true);
  const std::string name(kSymmetricMemoryName);
  TensorEntry entry;
  entry.request = {.name = name, .params = {.kind = OpKind::kBarrier}};
  return RunToEnd(*this, std::move(entry), std::make_shared<Handle>(name), patience);
}

void ProcessSet::RunInBackground(std::stop_token stop) {
  const std::stop_callback wake_to_stop(stop, [this] { bell().Wake(); });
  const auto must_wake = [&] {
    if (stop.stop_requested() || NeedsBulkRunner() || NeedsDeviceWatch()) return true;
    return !bell().attended() && (unarmed_.load() || (HasWork() && !progressing_.load()));
  };
  const auto enough = [&] { return bulk_waiters_.load() != 0; };
  while (!stop.stop_requested()) {
    // Another thread that works for the set is better placed than this one.
    const TimePoint tick{Duration(next_tick_.load())};
    if (!bell().attended() && queue_.has_fresh()) CollectSubmissions(stop);
    const bool due = HasWork() || Now() >= tick;
    const bool worked = !bell().attended() && due && TryProgress();
    const bool runs = NeedsBulkRunner();
    if (runs) RunBulk(enough);
    CloseIfFailed();
    WatchDevice();
    if (worked || runs) continue;
    const Sleep depth = queue_.pending() != 0 ? Sleep::kBackup : Sleep::kIdle;
    // Whoever attends looks at the network itself; here, each message would only take the core.
    unarmed_.store(options_.network != nullptr);
    if (!bell().attended()) {
      control_.Arm();
      unarmed_.store(false);
    }
    const bool looks_again = backed_up_.load() || unarmed_.load();
    const Duration longest = looks_again ? kNextLook : watching_ ? kNextDeviceLook : kLongestSleep;
    bell().SleepUnless(must_wake, depth, std::min(tick, Now() + longest));
  }
}

// A backward pass submits gradients one after the other. Waking up for each of them would take the
// core from that very pass, so the first one opens a window in which the next ones make no noise.
void ProcessSet::CollectSubmissions(const std::stop_token& stop) {
  const auto enough = [&] {
    return stop.stop_requested() || bell().attended() || board_->aborted() || flushed_.load() ||
           queue_.fresh_bytes() >= GatheringOn(has_spare_cores_).bytes;
  };
  collecting_.store(true);
  bell().SleepUnless(enough, Sleep::kIdle, Now() + GatheringOn(has_spare_cores_).time);
  collecting_.store(false);
  flushed_.store(false);
}

}  // namespace hora

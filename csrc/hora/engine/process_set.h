// One process set as one of its ranks sees it: the stages of the dataflow, and what drives them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#include "hora/base/status.h"
#include "hora/engine/bulk_lane.h"
#include "hora/engine/control_plane.h"
#include "hora/engine/executor.h"
#include "hora/engine/process_set_options.h"
#include "hora/negotiation/negotiator.h"
#include "hora/queue/tensor_queue.h"
#include "hora/shm/board.h"
#include "hora/shm/symmetric_memory.h"
#include "hora/tensor/rank_names.h"

namespace hora {

// Owns the queue, negotiator, lanes and one background thread of the set; shares its board. A set
// has locks of its own, so a collective of one set never waits for another set's: two overlapping
// sets may run their collectives in different orders on different ranks. Public members: any
// thread, unless said otherwise. Ranks are places in the set, except in texts.
//
// Whoever waits, works: a thread in Wait takes the progress lock, negotiates and runs what is
// urgent itself; who waits for a large operation runs the bulk lane besides. The background thread
// does so only for asynchronous work that nobody waits for; with nothing pending it sleeps, and
// costs nothing, but for a look at NCCL every 100 ms once it has had operations in program order.
class ProcessSet {
 public:
  static constexpr Duration kShutdownPatience = std::chrono::seconds(2);

  explicit ProcessSet(ProcessSetOptions options);
  // One that its last owner leaves, or, where it cannot be left, lets stay until the process ends.
  static std::shared_ptr<ProcessSet> Make(ProcessSetOptions options);
  ~ProcessSet();  // after a Leave that was OK: otherwise it ends the process
  ProcessSet(const ProcessSet&) = delete;
  ProcessSet& operator=(const ProcessSet&) = delete;

  int id() const { return options_.id; }
  int rank() const { return options_.rank; }
  int size() const { return size_; }
  const RankNames& names() const { return options_.names; }
  const TensorQueue& queue() const { return queue_; }
  Tuning tuning() const;  // in force

  // Checks the entry and enqueues it. The first one on a GPU chooses it for the rank. `will_wait`:
  // the caller calls Wait next, so nobody need be woken. A broadcast's root_rank is a place in the
  // set.
  Status Submit(TensorEntry&& entry, bool will_wait);

  // Nothing more will be submitted for now: what has been need not wait for company. Does nothing
  // where all cores are busy: who waits next does the work best.
  void Flush();

  // Works until the handle is done (kWoken), the deadline, or a signal (kInterrupted: call again).
  WakeReason Wait(const Handle& handle, TimePoint deadline);

  // A collective in program order, without negotiation: every rank makes the same calls in the same
  // order, whatever it submits by name besides. Blocks until done; memory of a GPU: until it is on
  // call.stream: what NCCL reports later ends the set, a kernel that hangs is not noticed. A call
  // that other threads make meanwhile waits its turn. Not OK: the set is lost, except for
  // kInvalidArgument and kResource of a GPU that is not there. Over NCCL call.stream may be
  // captured into a graph, once the same calls have run outside: what this rank lacks for it is
  // kInvalidArgument, and the capture stays valid.
  Status RunOrdered(CollectiveCall& call);

  // From one operation on, the same on every rank, allreduces reduce memory of `heap` in place.
  // Collective, once; blocks and fails as RunToEnd does (agreement.h).
  Status LookForSymmetricMemory(std::shared_ptr<const SymmetricHeap> heap, Duration patience);

  // Ends the set for all of its ranks.
  void Abort(const Status& cause);

  // Leaves the set. What is running everywhere is finished first; what is not agreed within
  // `patience` fails with kShutDown, on all ranks of the set. Afterwards nothing touches the board,
  // and nothing of the set's is left on the GPU. Idempotent; not concurrent with itself. kStalled:
  // a thread has not come back from a lane for some seconds after an abort. Nothing is submitted
  // any more then, but what is open stays so, and neither the set nor what it uses may be
  // destroyed; Leave may be called again.
  Status Leave(Duration patience = kShutdownPatience);

 private:
  static constexpr Duration kNextDeviceLook = std::chrono::milliseconds(100);

  bool HasWork() const;  // for the progress context
  bool NeedsBulkRunner() const;
  bool IsBusy() const;
  bool DeviceIsAtWork() const;
  bool NeedsDeviceWatch() const;
  void Work(const Handle& awaited);
  bool TryProgress();  // false when another thread has the progress lock
  void RunBulk(const std::function<bool()>& enough);
  Status GiveWay();  // between the steps of a bulk collective
  void Progress();   // progress lock held, as for those below
  Status ExecuteAgreed();
  Status ExecuteLanes(std::span<Agreed> agreed);
  void AnnounceSymmetricMemory(std::span<const Agreed> agreed);
  Status HandDownDecisions();
  void Adopt(const Tuning& tuning);
  void AbortDevices(const Status& cause);
  void CloseDevices();
  void WatchDevice();  // background thread
  // ordered_mutex_ held. `is_refused`: the set is not lost, whatever the status is.
  Status RunOrderedOnDevice(CollectiveCall& call, bool& is_refused);
  void FeedAutotune(std::uint64_t bytes, TimePoint began, TimePoint ended);
  void Fail(const Status& cause);    // any thread
  void CloseIfFailed();              // no lock held
  void GiveUp(const Status& cause);  // all handles; progress and bulk lock held
  void WakeWaiters() const;
  void HandOver();
  void RunInBackground(std::stop_token stop);
  void CollectSubmissions(const std::stop_token& stop);
  Status LeaveGroup(Duration patience);
  void FinishWork(TimePoint deadline, std::unique_lock<std::mutex>& ordered);
  Status CannotLeave(const Status& gone);
  void SayGoodbye();
  int global_rank() const { return options_.names.Of(options_.rank); }

  Doorbell& bell() const { return board_->flags(local_).doorbell; }

  const ProcessSetOptions options_;
  const int size_;
  const int local_;  // this rank's place on the board
  const std::shared_ptr<Board> board_;
  const bool has_spare_cores_;  // that no rank computes on
  const WaitPolicy wait_policy_;
  TensorQueue queue_;

  std::mutex progress_mutex_;  // guards the stages below
  ControlPlane control_;       // NeedsAttention: any thread
  Negotiator negotiator_;
  Executor urgent_;
  std::vector<TensorEntry*> fresh_;
  NegotiatorActions actions_;

  BulkLane bulk_;

  std::mutex ordered_mutex_;
  std::unique_ptr<CollectiveBackend> ordered_;        // ordered_mutex_
  const std::unique_ptr<DeviceLane> ordered_device_;  // ordered_mutex_, but to abort it

  std::shared_ptr<const SymmetricHeap> symmetric_;  // not touched while the next is true
  std::atomic<bool> symmetric_is_new_{false};       // the lanes have yet to hear of it

  mutable std::mutex tuning_mutex_;
  Tuning tuning_;  // tuning_mutex_

  std::atomic<bool> progressing_{false};  // somebody holds progress_mutex_
  std::atomic<bool> failing_{false};      // the group is lost, and told so
  std::atomic<bool> failed_{false};       // … and no handle is open any more
  std::atomic<int> urgent_waiters_{0};    // threads in Wait, by what they wait for
  std::atomic<int> bulk_waiters_{0};
  std::atomic<bool> collecting_{false};   // the background thread lets small submissions gather
  std::atomic<bool> flushed_{false};      // … which it need not any longer
  std::atomic<bool> unarmed_{false};      // the background thread sleeps, and no message wakes it
  std::atomic<bool> watching_{false};     // the background thread looks after the device
  std::atomic<bool> backed_up_{false};    // the control plane has something that it could not send
  std::atomic<Duration::rep> next_tick_;  // since the clock's epoch
  TimePoint next_look_{};                 // at the device; of the background thread
  bool left_ = false;
  std::jthread background_;  // last: uses all of the above
};

}  // namespace hora

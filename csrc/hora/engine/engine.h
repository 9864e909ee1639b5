// One rank's engine: composes queue, negotiation, fusion and collectives, and drives them.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

#include "hora/base/config.h"
#include "hora/base/result.h"
#include "hora/control/host_group.h"
#include "hora/control/liveness.h"
#include "hora/engine/control_plane.h"
#include "hora/engine/executor.h"
#include "hora/engine/topology.h"
#include "hora/negotiation/negotiator.h"
#include "hora/observe/metrics.h"
#include "hora/queue/tensor_queue.h"

namespace hora {

// Owns everything of one rank: the group's board and sockets, the stages, one background thread.
// N engines in one process are N ranks. Public members: any thread, unless said otherwise.
//
// Whoever waits, works: a thread in Wait takes the progress lock and runs the engine itself. The
// background thread does so only for asynchronous work that nobody waits for; with nothing pending
// it sleeps, and costs nothing.
class Engine {
 public:
  // `group` comes from FormHostGroup; the engine takes it over, also when it fails.
  static Result<std::unique_ptr<Engine>> Start(const Topology& topology, const Config& config,
                                               HostGroup group);
  ~Engine();  // Shutdown
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Topology& topology() const { return topology_; }
  const Metrics& metrics() const { return metrics_; }

  // Checks the entry and enqueues it. `will_wait`: the caller calls Wait next, so nobody need be
  // woken.
  Status Submit(TensorEntry entry, bool will_wait);

  // Works until the handle is done (kWoken), the deadline, or a signal (kInterrupted: call again).
  WakeReason Wait(const Handle& handle, TimePoint deadline);

  // Ends the group for everybody: a rank that is about to fail says why.
  void Abort(const Status& cause);

  // Leaves the group. What is running everywhere is finished first; what is not agreed yet fails
  // with kShutDown. Bounded by a few seconds even when peers hang. Idempotent; not concurrent with
  // itself.
  void Shutdown();

  // In the child of a fork; see Liveness.
  void CloseInForkedChild() noexcept { liveness_.CloseInForkedChild(); }

 private:
  Engine(const Topology& topology, const Config& config, HostGroup group);

  bool HasWork() const;
  bool TryProgress();  // false when another thread has the progress lock
  void Progress();     // progress lock held
  Status ExecuteAgreed();
  void FailClosed(const Status& cause);
  void HandOver();
  void RunInBackground(std::stop_token stop);
  void CollectSubmissions(const std::stop_token& stop);
  void LockProgress();
  void LeaveGroup();

  Doorbell& bell() const { return board_->flags(topology_.rank).doorbell; }

  const Topology topology_;
  const std::shared_ptr<Board> board_;
  const WaitPolicy wait_policy_;
  Metrics metrics_;
  TensorQueue queue_;

  std::mutex progress_mutex_;  // guards the stages below
  ControlPlane control_;       // NeedsAttention: any thread
  Negotiator negotiator_;
  Executor executor_;
  std::vector<Request> fresh_;
  NegotiatorActions actions_;

  std::atomic<bool> progressing_{false};  // somebody holds progress_mutex_
  std::atomic<bool> failed_{false};
  std::atomic<bool> collecting_{false};   // the background thread lets small submissions gather
  std::atomic<Duration::rep> next_tick_;  // since the clock's epoch
  bool left_ = false;
  Liveness liveness_;
  std::jthread background_;  // last: uses all of the above
};

}  // namespace hora

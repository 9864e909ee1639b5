// One rank's engine: its process sets, who watches its peers, and what it tells about itself.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hora/autotune/tuner.h"
#include "hora/base/config.h"
#include "hora/base/result.h"
#include "hora/control/host_group.h"
#include "hora/control/liveness.h"
#include "hora/engine/process_set.h"
#include "hora/engine/topology.h"
#include "hora/observe/metrics.h"
#include "hora/observe/observer_list.h"
#include "hora/observe/timeline.h"

namespace hora {

// Owns everything of one rank. N engines in one process are N ranks. Any thread, unless said
// otherwise.
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
  Timeline& timeline() { return timeline_; }

  ProcessSet& global() const { return *global_; }
  // The set of that id, kInvalidArgument when there is none or this rank is not in it.
  Result<std::shared_ptr<ProcessSet>> Find(int id) const;
  std::vector<std::shared_ptr<ProcessSet>> Sets() const;  // that this rank is in, by id

  // Collective over all ranks of the job, in the same order everywhere, with the same ascending
  // `ranks` (the caller has made sure). Blocks until every member may be spoken to. The set's id;
  // ids are not used again.
  Result<int> AddProcessSet(std::vector<int> ranks);
  // Collective as well: first, every member finishes what it has pending in the set.
  Status RemoveProcessSet(int id);

  // Ends the job for everybody: a rank that is about to fail says why.
  void Abort(const Status& cause);

  // Leaves every set. Bounded by a few seconds per set even when peers hang. Idempotent; not
  // concurrent with itself.
  void Shutdown();

  // In the child of a fork; see Liveness.
  void CloseInForkedChild() noexcept { liveness_.CloseInForkedChild(); }

 private:
  Engine(const Topology& topology, const Config& config, HostGroup group);

  std::shared_ptr<ProcessSet> MakeSet(int id, RankNames names, std::shared_ptr<Board> board);
  void FailAll(const Status& cause);

  const Topology topology_;
  const Config config_;
  const std::shared_ptr<Board> board_;  // of the global set
  const Tunables tunables_;
  Metrics metrics_;
  Timeline timeline_;
  ObserverList observers_;  // the two above
  std::unique_ptr<Tuner> tuner_;  // rank 0, when asked for

  mutable std::mutex sets_mutex_;
  std::map<int, std::shared_ptr<ProcessSet>> sets_;  // that this rank is in; sets_mutex_
  int next_id_ = 1;                // equal on all ranks
  std::size_t next_offset_ = 0;    // in the segment, of the next set's board; equal on all ranks
  std::shared_ptr<ProcessSet> global_;
  bool left_ = false;
  Liveness liveness_;
};

}  // namespace hora

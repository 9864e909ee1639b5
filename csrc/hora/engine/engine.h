// One rank's engine: its process sets, who watches its peers, and what it tells about itself.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/config.h"
#include "hora/base/result.h"
#include "hora/control/host_group.h"
#include "hora/control/job_group.h"
#include "hora/control/liveness.h"
#include "hora/engine/autotune.h"
#include "hora/engine/job_network.h"
#include "hora/engine/process_set.h"
#include "hora/engine/rank_device.h"
#include "hora/engine/symmetric_allocation.h"
#include "hora/engine/topology.h"
#include "hora/observe/metrics.h"
#include "hora/observe/observer_list.h"
#include "hora/observe/timeline.h"

namespace hora {

// Owns everything of one rank. N engines in one process are N ranks. Any thread, unless said
// otherwise.
class Engine {
 public:
  // Shuts it down; where a thread is stuck in it for a minute, it stays until the process ends.
  struct End {
    void operator()(Engine* engine) const;
  };
  using Owner = std::unique_ptr<Engine, End>;

  // `group` comes from FormJobGroup or FormHostGroup; the engine takes it over, also when it fails.
  // Blocks until the ranks of other hosts that this one speaks to are connected. `open` says how
  // GPUs are opened; empty: CUDA's plugin.
  static Result<Owner> Start(const Topology& topology, const Config& config, JobGroup group,
                             RankDevice::Open open = {});
  static Result<Owner> Start(const Topology& topology, const Config& config, HostGroup group,
                             RankDevice::Open open = {});
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Topology& topology() const { return topology_; }
  const Metrics& metrics() const { return metrics_; }
  Timeline& timeline() { return timeline_; }
  RankDevice& device() { return *device_; }

  ProcessSet& global() const { return *global_; }
  // The set of that id, kInvalidArgument when there is none or this rank is not in it.
  Result<std::shared_ptr<ProcessSet>> Find(int id) const;
  std::vector<std::shared_ptr<ProcessSet>> Sets() const;  // that this rank is in, by id
  std::map<int, std::vector<int>> RanksOfSets() const;    // all that exist, by id

  // Collective over all ranks of the job, in the same order everywhere, with the same ascending
  // `ranks` (the caller has made sure). Blocks until every member may be spoken to. The set's id;
  // ids are not used again. A failure, as when there is no memory, is the same on every rank, and
  // leaves things as they were: it may be tried again.
  Result<int> AddProcessSet(const std::vector<int>& ranks);
  // Collective as well: first, every member finishes what it has pending in the set.
  Status RemoveProcessSet(int id);

  // Memory of `bytes` that every rank of the set sees; see SymmetricAllocator::Allocate. Null where
  // the job has several hosts. Collective over the set; kInvalidArgument on a rank not in it.
  Result<std::shared_ptr<SymmetricMemory>> AllocateSymmetric(int id, std::size_t bytes,
                                                             std::string_view what);

  // Ends the job for everybody: a rank that is about to fail says why.
  void Abort(const Status& cause);

  // Leaves every set. Bounded by a few seconds per set even when peers hang, or a GPU. Idempotent;
  // not concurrent with itself. kStalled: a thread is stuck in an operation; to drop
  // the engine's last owner would wait for it.
  Status Shutdown();

  // In the child of a fork; see Liveness.
  void CloseInForkedChild() noexcept;

 private:
  // A set that exists.
  struct Entry {
    std::vector<int> ranks;
    std::vector<int> here;            // those on this host
    std::size_t offset = 0;           // of their board in the segment
    std::shared_ptr<ProcessSet> set;  // null: this rank is not in it, as of the next
    std::shared_ptr<SymmetricAllocator> symmetric;
  };

  // What a set of several hosts is laid over; of one host, its only one and null.
  struct Reach {
    HostLayout layout;
    std::shared_ptr<SetNetwork> network;
  };

  Engine(const Topology& topology, const Config& config, HostGroup group,
         std::unique_ptr<JobNetwork> network, Reach reach, RankDevice::Open open);

  std::shared_ptr<ProcessSet> MakeSet(int id, RankNames names, int place,
                                      std::shared_ptr<Board> board, Reach reach);
  std::shared_ptr<SymmetricAllocator> AllocatorOf(std::shared_ptr<ProcessSet> set) const;
  Status CheckRanks(const std::vector<int>& ranks) const;
  BoardOptions BoardOf(int id, std::size_t size) const;
  Result<std::shared_ptr<ProcessSet>> Enter(int id, const Entry& entry);
  Status Agree(const std::string& name, const Status& mine);
  Result<Entry> EntryOf(int id) const;  // kInvalidArgument as Find
  void FailAll(const Status& cause);

  const Topology topology_;
  const Config config_;
  const std::shared_ptr<Board> board_;         // of the global set
  const std::unique_ptr<JobNetwork> network_;  // null: one host
  Liveness liveness_;
  const Tunables tunables_;
  const std::shared_ptr<ResultMemory> result_memory_;
  const std::shared_ptr<RankDevice> device_;
  Metrics metrics_;
  Timeline timeline_;
  ObserverList observers_;              // the two above
  std::unique_ptr<Autotune> autotune_;  // rank 0, when asked for

  std::mutex change_mutex_;      // held while a set is added or removed, so one at a time
  int next_id_ = 1;              // equal on all ranks; change_mutex_
  std::size_t next_offset_ = 0;  // of the next set's board, equal on all ranks; change_mutex_

  mutable std::mutex sets_mutex_;
  std::map<int, Entry> sets_;  // sets_mutex_
  bool left_ = false;
  std::shared_ptr<ProcessSet> global_;  // its threads use all of the above
};

}  // namespace hora

// Runs what was agreed: plan, pack, collective, complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "hora/base/status.h"
#include "hora/collectives/collective_backend.h"
#include "hora/engine/device_lane.h"
#include "hora/engine/placement.h"
#include "hora/fusion/fusion_plan.h"
#include "hora/fusion/pack.h"
#include "hora/observe/observer.h"
#include "hora/queue/tensor_queue.h"
#include "hora/tensor/rank_names.h"
#include "hora/tensor/result_memory.h"
#include "hora/wire/agreed.h"
#include "hora/wire/tunables.h"

namespace hora {

struct ExecutorOptions {
  int process_set = 0;
  int rank = 0;  // place in the set
  int size = 1;
  RankNames names;
  Tuning tuning;
  bool join_divides_by_size = false;
  bool bulk = false;                            // which lane this is, for the observer
  std::shared_ptr<ResultMemory> result_memory;  // may be null
};

// Owns the backends; uses the queue and the observer. Progress context only. Blocks while data
// moves; what is on a device is done for a handle once it is on the stream. The steady state of a
// cached allreduce keeps its buffers.
class Executor {
 public:
  // `device` does what is on a GPU, and may use the backends; null: this lane gets none of that.
  Executor(ExecutorOptions options, std::vector<std::unique_ptr<CollectiveBackend>> backends,
           std::unique_ptr<DeviceLane> device, TensorQueue& queue, Observer& observer);

  // Completes the handle of every response, once all its tensors are done. Not OK: the data plane
  // is lost, and the handles of this and later batches are still open.
  Status Execute(std::span<const Agreed> agreed);

  // Completes the handle of `entry` with an error; null is nothing.
  void Refuse(TensorEntry* entry, const Status& error);

  // Both in force from the next Execute on, on all ranks at the same operation: new tuning, and
  // that allreduces of memory which lies in `heap` shall be done in place.
  void Retune(const Tuning& tuning);
  void LookForSymmetricMemory(std::shared_ptr<const SymmetricHeap> heap);

  std::uint64_t moved_bytes() const { return moved_bytes_; }  // contributed here, by all so far
  DeviceLane* device() const { return device_.get(); }        // any thread

  // Gives back what there is on the device, which stays where that does not come to an end in time.
  void CloseDevice(TimePoint deadline);

 private:
  // An operation of the present Execute.
  struct InFlight {
    TensorEntry* entry = nullptr;  // null: this rank is absent, there was an error, or it is done
    std::size_t open_tensors = 0;
    std::vector<std::shared_ptr<Gathered>> gathered;
  };

  void Begin(std::span<const Agreed> agreed);
  Status ExecuteBatch(const Batch& batch, std::span<const Agreed> agreed);
  Status Fused(const Batch& batch, std::span<const Agreed> agreed);
  Status Alltoall(const Batch& batch, const Response& response);
  Status OpenDevice(const Batch& batch, bool& refused);
  Status Dispatch(CollectiveCall& call);
  Status Run(CollectiveCall& call, const Batch& batch, const Response& first);
  Status FindBuffers(const Batch& batch, std::span<const Agreed> agreed);
  Status MakeScratch(const Batch& batch, std::span<const Agreed> agreed);
  Result<std::byte*> Scratch(std::size_t bytes, const Device& device);
  // Memory for `rows` together, whose number only became known with the agreement.
  Result<std::shared_ptr<Gathered>> Allocate(std::vector<std::int64_t> rows, TensorView& view);
  void BatchDone(const Batch& batch, std::span<const Agreed> agreed);
  bool IsWorthPlacing(const CollectiveCall& call) const;
  int DivisorOf(const Response& response) const;
  CollectiveBackend& BackendFor(const OpParams& params);
  CollectiveBackend& BackendForAdasum(OpParams params);

  ExecutorOptions options_;
  std::vector<std::unique_ptr<CollectiveBackend>> backends_;
  TensorQueue& queue_;
  Observer& observer_;
  FusionPlan plan_;
  std::vector<InFlight> in_flight_;     // by response
  std::vector<MemberBuffers> buffers_;  // by member of the present batch
  std::vector<std::byte> scratch_;      // what an absent rank works on; kept while it is absent
  EventPool::Lease mark_;               // of the present batch, where it is on a device
  std::optional<Placement> placement_;  // once the set has symmetric memory
  std::uint64_t moved_bytes_ = 0;
  // Of BatchDone, kept for their memory.
  std::vector<std::uint32_t> done_;  // responses
  std::vector<TensorEntry*> entries_;
  std::vector<std::shared_ptr<Handle>> handles_;
  const std::unique_ptr<DeviceLane> device_;  // last: its streams may still use all of the above
};

}  // namespace hora

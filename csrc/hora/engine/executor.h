// Runs what was agreed: plan, pack, collective, complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "hora/base/status.h"
#include "hora/collectives/collective_backend.h"
#include "hora/engine/placement.h"
#include "hora/fusion/fusion_plan.h"
#include "hora/fusion/pack.h"
#include "hora/observe/observer.h"
#include "hora/queue/tensor_queue.h"
#include "hora/tensor/rank_names.h"
#include "hora/wire/response.h"
#include "hora/wire/tunables.h"

namespace hora {

struct ExecutorOptions {
  int process_set = 0;
  int rank = 0;  // place in the set
  int size = 1;
  RankNames names;
  Tuning tuning;
  bool join_divides_by_size = false;
  bool bulk = false;  // which lane this is, for the observer
};

// Owns the backends; uses the queue and the observer. Progress context only. Blocks while data
// moves. The steady state of a cached allreduce keeps its buffers.
class Executor {
 public:
  Executor(ExecutorOptions options, std::vector<std::unique_ptr<CollectiveBackend>> backends,
           TensorQueue& queue, Observer& observer);

  // Completes the handle of every response, once all its tensors are done. Not OK: the data plane
  // is lost, and the handles of this and later batches are still open.
  Status Execute(std::span<const Response> responses);

  // Completes the handle of `name`, when it is pending here, with an error.
  void Refuse(std::string_view name, const Status& error);

  // Both in force from the next Execute on, on all ranks at the same operation: new tuning, and
  // that allreduces of memory which lies in `heap` shall be done in place.
  void Retune(const Tuning& tuning);
  void LookForSymmetricMemory(std::shared_ptr<const SymmetricHeap> heap);

  std::uint64_t moved_bytes() const { return moved_bytes_; }  // contributed here, by all so far

 private:
  // A response of the present Execute.
  struct InFlight {
    TensorEntry* entry = nullptr;  // null: this rank is absent, or there was an error
    std::size_t open_tensors = 0;
    std::vector<std::shared_ptr<Gathered>> gathered;
  };

  void Begin(std::span<const Response> responses);
  Status ExecuteBatch(Batch& batch, std::span<const Response> responses);
  Status Fused(Batch& batch, std::span<const Response> responses);
  Status Alltoall(const Batch& batch, const Response& response);
  Status Run(CollectiveCall& call, const Batch& batch, const Response& first);
  void FindBuffers(const Batch& batch, std::span<const Response> responses);
  void MakeScratch(const Batch& batch, std::span<const Response> responses);
  void AllocateGathered(const Batch::Member& member, const Response& response, TensorView& output);
  void TensorDone(const Response& response, InFlight& in_flight);
  bool IsWorthPlacing(const CollectiveCall& call) const;
  int DivisorOf(const Response& response) const;
  CollectiveBackend& BackendFor(const OpParams& params);
  CollectiveBackend& BackendForAdasum(OpParams params);

  ExecutorOptions options_;
  std::vector<std::unique_ptr<CollectiveBackend>> backends_;
  TensorQueue& queue_;
  Observer& observer_;
  std::vector<InFlight> in_flight_;     // by response
  std::vector<MemberBuffers> buffers_;  // by member of the present batch
  std::vector<std::byte> scratch_;      // what an absent rank works on; kept while it is absent
  std::optional<Placement> placement_;  // once the set has symmetric memory
  std::uint64_t moved_bytes_ = 0;
};

}  // namespace hora

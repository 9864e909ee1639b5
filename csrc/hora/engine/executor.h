// Runs what was agreed: plan, pack, collective, complete.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "hora/base/status.h"
#include "hora/collectives/collective_backend.h"
#include "hora/fusion/pack.h"
#include "hora/observe/observer.h"
#include "hora/queue/tensor_queue.h"
#include "hora/wire/response.h"

namespace hora {

// Owns the backends; uses the queue and the observer. Progress context only. Blocks while data
// moves.
class Executor {
 public:
  Executor(int size, std::size_t fusion_threshold_bytes,
           std::vector<std::unique_ptr<CollectiveBackend>> backends, TensorQueue& queue,
           Observer& observer);

  // Completes the handle of every response. Not OK: the data plane is lost, and the handles of this
  // and later batches are still open.
  Status Execute(std::span<const Response> responses);

  // Completes the handle of `name`, when it is pending here.
  void Complete(std::string_view name, Status status, std::shared_ptr<Gathered> gathered = nullptr);

 private:
  Status ExecuteBatch(const Batch& batch, std::span<const Response> responses);
  CollectiveBackend& BackendFor(const OpParams& params);

  int size_;
  std::size_t fusion_threshold_bytes_;
  std::vector<std::unique_ptr<CollectiveBackend>> backends_;
  TensorQueue& queue_;
  Observer& observer_;
};

}  // namespace hora

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hora/base/clock.h"
#include "hora/cuda/device_memory.h"
#include "hora/queue/handle.h"
#include "hora/tensor/tensor_view.h"
#include "hora/wire/request.h"

namespace hora {

// One tensor of a submission.
struct TensorPair {
  TensorView input;   // data is null for barrier and join, and for broadcast on other ranks
  TensorView output;  // data is null for allgather, alltoall, barrier and join
};

// One submission. The submitter keeps the memory behind the views alive until the handle is done;
// memory of a device until that is past Outcome::on_device.
struct TensorEntry {
  Request request;
  TensorView input;  // of the first tensor, as in TensorPair
  TensorView output;
  std::vector<TensorPair> rest;      // of a group: its tensors after the first
  std::vector<std::int64_t> splits;  // alltoall: rows for each rank of the set
  EventPool::Lease ready;  // tensors on a device: what the work comes after; null is nothing
  std::shared_ptr<Handle> handle;
  TimePoint since{};  // when it was submitted, to some milliseconds; the queue writes it
};

}  // namespace hora

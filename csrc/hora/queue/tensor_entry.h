#pragma once

#include <memory>

#include "hora/queue/handle.h"
#include "hora/tensor/tensor_view.h"
#include "hora/wire/request.h"

namespace hora {

// One submission. The submitter keeps the memory behind the views alive until the handle is done.
struct TensorEntry {
  Request request;
  TensorView input;   // data is null for barrier, and for broadcast on other ranks
  TensorView output;  // data is null for allgather and barrier
  std::shared_ptr<Handle> handle;
};

}  // namespace hora

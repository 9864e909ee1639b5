// One agreed operation, as it passes from stage to stage.
#pragma once

#include <memory>

#include "hora/wire/response.h"

namespace hora {

struct TensorEntry;  // of the queue

// Responses never change once they are agreed, so the cache, the plan and the execution share one
// object, and a repeated tensor costs no copy of its name and shape.
using SharedResponse = std::shared_ptr<const Response>;

struct Agreed {
  SharedResponse response;
  // What this rank submitted for it, as it was passed to the negotiator; null when nothing of it is
  // pending here, or too late for this response.
  TensorEntry* entry = nullptr;

  const Response* operator->() const { return response.get(); }
  const Response& operator*() const { return *response; }
};

}  // namespace hora

#include "hora/queue/handle.h"

#include <utility>

#include "hora/base/check.h"

namespace hora {

void Handle::Complete(Status status, Outcome outcome) {
  Check(!done(), "a handle completes once");
  status_ = std::move(status);
  outcome_ = std::move(outcome);
  done_.store(true);
}

}  // namespace hora

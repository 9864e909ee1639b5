#include "hora/queue/handle.h"

#include <utility>

#include "hora/base/check.h"

namespace hora {

void Handle::Complete(Status status, std::vector<std::shared_ptr<Gathered>> gathered,
                      int last_joined) {
  Check(!done(), "a handle completes once");
  status_ = std::move(status);
  gathered_ = std::move(gathered);
  last_joined_ = last_joined;
  done_.store(true);
}

}  // namespace hora

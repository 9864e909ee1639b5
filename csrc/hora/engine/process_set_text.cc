#include "hora/engine/process_set_text.h"

#include <utility>

#include "hora/base/format.h"

namespace hora {

Status InProcessSet(int process_set, Status status) {
  if (process_set == 0 || status.ok()) return status;
  return Error(status.code(), "process set {}: {}", process_set, status.message());
}

}  // namespace hora

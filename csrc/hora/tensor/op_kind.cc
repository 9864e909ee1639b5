#include "hora/tensor/op_kind.h"

namespace hora {

std::string_view ToString(OpKind kind) {
  switch (kind) {
    case OpKind::kAllreduce:
      return "allreduce";
    case OpKind::kAllgather:
      return "allgather";
    case OpKind::kBroadcast:
      return "broadcast";
    case OpKind::kBarrier:
      return "barrier";
  }
  return "unknown operation";
}

}  // namespace hora

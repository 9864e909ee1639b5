#include "hora/engine/submission.h"

#include "hora/base/format.h"
#include "hora/wire/codec.h"

namespace hora {
namespace {

Status Invalid(const Request& request, std::string_view problem) {
  return Error(StatusCode::kInvalidArgument, "{} '{}': {}", ToString(request.params.kind),
               request.name, problem);
}

Status CheckName(const Request& request) {
  if (request.name.empty() || request.name.size() > kMaxNameBytes) {
    return Error(StatusCode::kInvalidArgument,
                 "{}: a tensor's name has 1 to {} bytes, this one has {}",
                 ToString(request.params.kind), kMaxNameBytes, request.name.size());
  }
  return Status::Ok();
}

bool IsKnown(ReduceOp op) {
  switch (op) {
    case ReduceOp::kAverage:
    case ReduceOp::kSum:
    case ReduceOp::kMin:
    case ReduceOp::kMax:
    case ReduceOp::kProduct:
      return true;
  }
  return false;
}

Status CheckAllreduce(const Request& request) {
  const OpParams& params = request.params;
  if (!IsKnown(params.reduce_op)) {
    return Invalid(request,
                   fmt::format("{} is not a reduce op; average, sum, min, max and product are",
                               static_cast<int>(params.reduce_op)));
  }
  if (!IsReducible(params.dtype)) {
    return Invalid(request,
                   fmt::format("{} cannot be reduced; (u)int8 to (u)int64, float16, bfloat16, "
                               "float32, float64 and bool can",
                               ToString(params.dtype)));
  }
  if (params.dtype == DType::kBool && params.reduce_op == ReduceOp::kAverage) {
    return Invalid(request,
                   "the average of bool is not defined; use sum (or), min (and) or max (or)");
  }
  return Status::Ok();
}

}  // namespace

Status CheckSubmission(const TensorEntry& entry, int size) {
  const Request& request = entry.request;
  const OpParams& params = request.params;
  if (Status status = CheckName(request); !status.ok()) return status;
  if (params.device.type != DeviceType::kCpu) {
    return Invalid(request, fmt::format("the tensor is on {}; this build moves CPU tensors only",
                                        params.device.ToString()));
  }
  switch (params.kind) {
    case OpKind::kAllreduce:
      return CheckAllreduce(request);
    case OpKind::kAllgather:
      if (params.shape.rank() > 0) return Status::Ok();
      return Invalid(request,
                     "a tensor without dimensions cannot be concatenated; reshape it to [1]");
    case OpKind::kBroadcast:
      if (params.root_rank >= 0 && params.root_rank < size) return Status::Ok();
      return Invalid(request,
                     fmt::format("root_rank {} is not a rank of this job, which has 0 to {}",
                                 params.root_rank, size - 1));
    case OpKind::kBarrier:
      return Status::Ok();
  }
  return Invalid(request, "unknown kind of operation");
}

}  // namespace hora

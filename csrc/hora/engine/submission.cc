#include "hora/engine/submission.h"

#include <limits>
#include <string>
#include <string_view>

#include "hora/base/format.h"
#include "hora/fusion/fusion_plan.h"
#include "hora/negotiation/wording.h"
#include "hora/wire/limits.h"

namespace hora {
namespace {

Status Invalid(const Request& request, std::string_view problem) {
  return Error(StatusCode::kInvalidArgument, "{}: {}", OpText(request.params.kind, request.name),
               problem);
}

const TensorView& InputOf(const TensorEntry& entry, std::size_t tensor) {
  return tensor == 0 ? entry.input : entry.rest[tensor - 1].input;
}

const TensorView& OutputOf(const TensorEntry& entry, std::size_t tensor) {
  return tensor == 0 ? entry.output : entry.rest[tensor - 1].output;
}

// Of a group's three tensors the second is "tensor 2 of 3".
std::string Which(const Request& request, std::size_t tensor) {
  if (request.params.rest.empty()) return "the tensor";
  return fmt::format("tensor {} of {}", tensor + 1, request.params.tensor_count());
}

Status CheckName(const Request& request) {
  if ((request.params.kind == OpKind::kJoin) != (request.name == kJoinName)) {
    return Invalid(request,
                   fmt::format("the name '{}' is that of joins, and of nothing else", kJoinName));
  }
  if (!request.name.empty() && request.name.size() <= kMaxNameBytes) return Status::Ok();
  return Error(StatusCode::kInvalidArgument,
               "{}: a tensor's name has 1 to {} bytes, this one has {}",
               ToString(request.params.kind), kMaxNameBytes, request.name.size());
}

bool MayBeGrouped(OpKind kind) {
  return kind == OpKind::kAllreduce || kind == OpKind::kAllgather || kind == OpKind::kReducescatter;
}

Status CheckParts(const TensorEntry& entry) {
  const Request& request = entry.request;
  if (entry.rest.size() != request.params.rest.size()) {
    return Error(StatusCode::kInternal, "{}: {} tensors, but parameters of {}",
                 OpText(request.params.kind, request.name), 1 + entry.rest.size(),
                 request.params.tensor_count());
  }
  if (request.params.rest.empty() || MayBeGrouped(request.params.kind)) return Status::Ok();
  return Invalid(request, fmt::format("{} tensors at once; allreduce, allgather and reducescatter "
                                      "can be grouped, this takes one tensor",
                                      request.params.tensor_count()));
}

// Where there is no memory, the device is nobody's.
Status CheckDevices(const TensorEntry& entry) {
  const Request& request = entry.request;
  const Device& needed = request.params.device;
  for (std::size_t i = 0; i < request.params.tensor_count(); ++i) {
    for (const TensorView* view : {&InputOf(entry, i), &OutputOf(entry, i)}) {
      if (view->data == nullptr || view->device == needed) continue;
      const bool is_output = view == &OutputOf(entry, i);
      return Invalid(request, fmt::format("{}{} is on {}, but the operation on {}; all its tensors "
                                          "and outputs are on one device",
                                          is_output ? "the output of " : "", Which(request, i),
                                          view->device.ToString(), needed.ToString()));
    }
  }
  return Status::Ok();
}

bool IsKnown(ReduceOp op) {
  switch (op) {
    case ReduceOp::kAverage:
    case ReduceOp::kSum:
    case ReduceOp::kAdasum:
    case ReduceOp::kMin:
    case ReduceOp::kMax:
    case ReduceOp::kProduct:
      return true;
  }
  return false;
}

std::string_view WhatCanBeReduced(DType dtype, ReduceOp op) {
  if (op == ReduceOp::kAdasum) return "Adasum takes float16, bfloat16, float32 and float64";
  if (dtype == DType::kBool) return "use sum (or), min (and) or max (or)";
  if (IsReducible(dtype, ReduceOp::kSum)) return "use sum or average";
  return "convert it to a dtype that can be reduced, such as float32";
}

Status CheckReduction(const TensorEntry& entry) {
  const Request& request = entry.request;
  const ReduceOp op = request.params.reduce_op;
  if (!IsKnown(op)) {
    return Invalid(request,
                   fmt::format("{} is not a reduce op; average, sum, adasum, min, max and product "
                               "are",
                               static_cast<int>(op)));
  }
  for (std::size_t i = 0; i < request.params.tensor_count(); ++i) {
    const DType dtype = request.params.dtype_of(i);
    if (IsReducible(dtype, op)) continue;
    return Invalid(request,
                   fmt::format("{} is {}, which has no {}; {}", Which(request, i), ToString(dtype),
                               ToString(op), WhatCanBeReduced(dtype, op)));
  }
  return Status::Ok();
}

// Writing results of another size would go beyond the tensor's memory.
Status CheckOutput(const TensorEntry& entry, std::size_t tensor, const Shape& expected) {
  const Request& request = entry.request;
  const TensorView& output = OutputOf(entry, tensor);
  const DType dtype = request.params.dtype_of(tensor);
  if (output.dtype == dtype && output.shape == expected) return Status::Ok();
  return Invalid(
      request, fmt::format("the output of {} is {} of shape {}; needed is {} of {}",
                           Which(request, tensor), ToString(output.dtype), output.shape.ToString(),
                           ToString(dtype), expected.ToString()));
}

Status CheckAllreduce(const TensorEntry& entry) {
  if (Status status = CheckReduction(entry); !status.ok()) return status;
  for (std::size_t i = 0; i < entry.request.params.tensor_count(); ++i) {
    Status status = CheckOutput(entry, i, entry.request.params.shape_of(i));
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

Status CheckAllgather(const TensorEntry& entry) {
  const Request& request = entry.request;
  for (std::size_t i = 0; i < request.params.tensor_count(); ++i) {
    if (request.params.shape_of(i).rank() > 0) continue;
    return Invalid(request, fmt::format("{} has no dimensions and cannot be concatenated; reshape "
                                        "it to [1]",
                                        Which(request, i)));
  }
  if (request.first_dims.size() == request.params.tensor_count()) return Status::Ok();
  return Error(StatusCode::kInternal, "{}: rows of {} tensors for {}",
               OpText(request.params.kind, request.name), request.first_dims.size(),
               request.params.tensor_count());
}

Status CheckReducescatter(const TensorEntry& entry, int rank, int size) {
  const Request& request = entry.request;
  if (request.params.reduce_op == ReduceOp::kAdasum) {
    return Invalid(request,
                   "Adasum needs whole tensors on every rank and works for allreduce only; "
                   "use average, sum, min, max or product");
  }
  if (Status status = CheckReduction(entry); !status.ok()) return status;
  for (std::size_t i = 0; i < request.params.tensor_count(); ++i) {
    const Shape& shape = request.params.shape_of(i);
    if (shape.rank() == 0) {
      return Invalid(request, fmt::format("{} has no dimensions and cannot be scattered by rows; "
                                          "use allreduce",
                                          Which(request, i)));
    }
    const RowRange rows = RowsOfRank(shape.dim(0), rank, size);
    Status status = CheckOutput(entry, i, shape.WithFirstDim(rows.count));
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

Status CheckBroadcast(const TensorEntry& entry, int size, const RankNames& names) {
  const Request& request = entry.request;
  const int root = request.params.root_rank;
  if (root < 0 || root >= size) {
    const std::string text =
        names.is_global()
            ? fmt::format("root_rank {} is not a rank of this job, which has 0 to {}", root,
                          size - 1)
            : fmt::format("the root has place {} in a process set of {} ranks", root, size);
    return Invalid(request, text);
  }
  return CheckOutput(entry, 0, request.params.shape);
}

std::string SplitsText(const std::vector<std::int64_t>& splits) {
  constexpr std::size_t kMost = 16;
  std::string text = Shape(splits).ToString();
  if (splits.size() <= kMost) return text;
  text = Shape(std::vector(splits.begin(), splits.begin() + kMost)).ToString();
  text.pop_back();
  return text + ", …]";
}

Status CheckAlltoall(const TensorEntry& entry, int size, const RankNames& names) {
  const Request& request = entry.request;
  const Shape& shape = entry.input.shape;
  if (shape.rank() == 0) {
    return Invalid(request, "the tensor has no dimensions and cannot be split by rows; reshape it");
  }
  if (entry.splits.size() != static_cast<std::size_t>(size)) {
    return Invalid(request,
                   fmt::format("splits {} has {} numbers; needed is one for each of {} ranks",
                               SplitsText(entry.splits), entry.splits.size(), size));
  }
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < entry.splits.size(); ++i) {
    const std::int64_t rows = entry.splits[i];
    if (rows < 0) {
      return Invalid(request,
                     fmt::format("splits {} sends {} rows to rank {}; needed are numbers "
                                 "from 0",
                                 SplitsText(entry.splits), rows, names.Of(static_cast<int>(i))));
    }
    if (__builtin_add_overflow(sum, rows, &sum)) sum = std::numeric_limits<std::int64_t>::max();
  }
  if (sum == shape.dim(0)) return Status::Ok();
  return Invalid(request,
                 fmt::format("splits {} adds up to {}, but the tensor of shape {} has {} "
                             "rows",
                             SplitsText(entry.splits), sum, shape.ToString(), shape.dim(0)));
}

}  // namespace

Status CheckSubmission(const TensorEntry& entry, int rank, int size, const RankNames& names) {
  if (Status status = CheckName(entry.request); !status.ok()) return status;
  if (Status status = CheckParts(entry); !status.ok()) return status;
  if (Status status = CheckDevices(entry); !status.ok()) return status;
  switch (entry.request.params.kind) {
    case OpKind::kAllreduce:
      return CheckAllreduce(entry);
    case OpKind::kAllgather:
      return CheckAllgather(entry);
    case OpKind::kBroadcast:
      return CheckBroadcast(entry, size, names);
    case OpKind::kAlltoall:
      return CheckAlltoall(entry, size, names);
    case OpKind::kReducescatter:
      return CheckReducescatter(entry, rank, size);
    case OpKind::kBarrier:
    case OpKind::kJoin:
      return Status::Ok();
  }
  return Invalid(entry.request, "unknown kind of operation");
}

Status ChooseDevice(const Request& request, RankDevice& device) {
  Status status = device.Choose(request.params.device.index);
  if (status.code() != StatusCode::kInvalidArgument) return Status::Ok();
  return Invalid(request, status.message());
}

}  // namespace hora

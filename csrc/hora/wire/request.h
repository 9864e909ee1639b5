// What one rank, or a subtree of ranks that agree, asks for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/rank_set.h"
#include "hora/tensor/device.h"
#include "hora/tensor/dtype.h"
#include "hora/tensor/op_kind.h"
#include "hora/tensor/reduce_op.h"
#include "hora/tensor/shape.h"

namespace hora {

struct TensorSpec {
  DType dtype = DType::kFloat32;
  Shape shape;

  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

// Every join has this name, and nothing else has it: a rank has joined or it has not.
inline constexpr std::string_view kJoinName = "join.noname";

// Everything that ranks must agree on. For allgather and alltoall the first dimension may differ,
// so there shapes hold 0 in its place: an allgather's rows are negotiated (first_dims below), an
// alltoall's splits are exchanged when it runs, because they change with every call.
//
// A grouped operation (allreduce, allgather, reducescatter) is one request for several tensors, so
// they are agreed on, cached and completed as one.
struct OpParams {
  OpKind kind = OpKind::kAllreduce;
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;  // allreduce, reducescatter
  // broadcast: the root's place in the process set. join, in a response: who joined last.
  std::int32_t root_rank = -1;
  // Of what is agreed at the same time, the highest runs first; above 0 it overtakes bulk
  // operations under way. 0 for barrier and join.
  std::int32_t priority = 0;
  double prescale = 1.0;  // allreduce, reducescatter
  double postscale = 1.0;
  Device device;
  Shape shape;
  std::vector<TensorSpec> rest;  // of a group: its tensors after the first

  std::size_t tensor_count() const { return 1 + rest.size(); }
  DType dtype_of(std::size_t tensor) const { return tensor == 0 ? dtype : rest[tensor - 1].dtype; }
  const Shape& shape_of(std::size_t tensor) const {
    return tensor == 0 ? shape : rest[tensor - 1].shape;
  }

  friend bool operator==(const OpParams&, const OpParams&) = default;
};

// One rank's submission.
struct Request {
  std::string name;
  OpParams params;
  // allgather: rows that this rank contributes, one number per tensor; else empty.
  std::vector<std::int64_t> first_dims;

  friend bool operator==(const Request&, const Request&) = default;
};

struct RankRows {
  std::int32_t rank = 0;
  std::int64_t rows = 0;

  friend bool operator==(const RankRows&, const RankRows&) = default;
};

// The ranks that asked for `name` with the same parameters.
struct RequestVariant {
  OpParams params;
  RankSet ranks;
  // allgather: for each rank in `ranks`, ascending, one entry per tensor; else empty.
  std::vector<RankRows> first_dims;

  friend bool operator==(const RequestVariant&, const RequestVariant&) = default;
};

// What a whole subtree asks for under one name; more than one variant is a mismatch, which the root
// turns into an error for every rank.
struct SubtreeRequest {
  std::string name;
  std::vector<RequestVariant> variants;

  friend bool operator==(const SubtreeRequest&, const SubtreeRequest&) = default;
};

}  // namespace hora

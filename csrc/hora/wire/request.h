// What one rank, or a subtree of ranks that agree, asks for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hora/base/rank_set.h"
#include "hora/tensor/device.h"
#include "hora/tensor/dtype.h"
#include "hora/tensor/op_kind.h"
#include "hora/tensor/reduce_op.h"
#include "hora/tensor/shape.h"

namespace hora {

// Everything that ranks must agree on. For allgather the first dimension may differ, so there
// `shape` holds 0 in its place and FirstDims carries each rank's own.
struct OpParams {
  OpKind kind = OpKind::kAllreduce;
  DType dtype = DType::kFloat32;
  ReduceOp reduce_op = ReduceOp::kSum;  // allreduce
  std::int32_t root_rank = -1;          // broadcast
  double prescale = 1.0;                // allreduce
  double postscale = 1.0;
  Device device;
  Shape shape;

  friend bool operator==(const OpParams&, const OpParams&) = default;
};

// One rank's submission.
struct Request {
  std::string name;
  OpParams params;
  std::int64_t first_dim = 0;  // allgather: rows that this rank contributes

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
  std::vector<RankRows> first_dims;  // allgather: one per rank in `ranks`, ascending; else empty

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

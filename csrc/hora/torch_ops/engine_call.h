// Operations of this process's engine on tensors of PyTorch.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hora/tensor/op_kind.h"
#include "hora/torch_ops/engine_api.h"

namespace hora::torch_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What operations have in common.
struct Terms {
  OpKind kind = OpKind::kAllreduce;
  std::string name;  // empty: "<kind>.compiled.<n>", counted for each kind and process set
  std::int64_t process_set = 0;
  std::int64_t reduce_op = 1;
  std::int64_t root_rank = -1;
  double prescale = 1.0;
  double postscale = 1.0;
};

// Null disconnects. Not while an operation runs.
void Connect(const HoraEngineApi* api);

struct Place {
  std::int32_t rank = 0;
  std::int32_t size = 1;
};

// All throw std::runtime_error, which PyTorch turns into RuntimeError, with the engine's message.
// Inputs may have any strides.
Place PlaceIn(std::int64_t process_set);

// Blocks until every input is reduced or broadcast into the new tensor in its place.
std::vector<Tensor> RunInto(const Terms& terms, std::vector<Tensor> inputs,
                            std::vector<Tensor> outputs);

struct Gathered {
  Tensor tensor;
  std::vector<std::int64_t> rows;  // from each rank
};

// allgather, and alltoall with `splits`.
Gathered RunGathering(const Terms& terms, const Tensor& input,
                      std::span<const std::int64_t> splits = {});

// An uninitialised row-major tensor like `like`, but with another number of rows.
Tensor EmptyRows(const Tensor& like, std::int64_t rows);
Tensor EmptyDense(const Tensor& like);
// A copy with rows of zeros at the end, `rows` in all.
Tensor FilledUp(const Tensor& dense, std::int64_t rows);

}  // namespace hora::torch_ops

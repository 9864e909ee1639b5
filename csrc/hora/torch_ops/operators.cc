// Kernels of torch.ops.hora.*, the same for the CPU and CUDA. Their schemas with tags, how their
// results look without running (fake kernels) and their gradients are in
// python/hora/torch/operators.py: the stable ABI takes tags from PyTorch 2.12 on only.
//
// Whatever differs between ranks or jobs and shows in a result's shape or gradient is an argument,
// so that no two processes can have the same graph and mean different things by it: compilers keep
// what they have made of a graph, for every process of the host and for the next job.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <numeric>
#include <stdexcept>
#include <tuple>

#include "hora/base/format.h"
#include "hora/tensor/reduce_op.h"
#include "hora/torch_ops/engine_call.h"

namespace hora::torch_ops {
namespace {

[[noreturn]] void Refuse(const Terms& terms, const std::string& problem) {
  const std::string name = terms.name.empty() ? "" : fmt::format(" '{}'", terms.name);
  throw std::runtime_error(fmt::format("{}{}: {}", ToString(terms.kind), name, problem));
}

std::vector<Tensor> GroupedAllreduce(std::vector<Tensor> inputs, std::string name, std::int64_t op,
                                     double prescale, double postscale, std::int64_t process_set) {
  std::vector<Tensor> outputs;
  for (const Tensor& input : inputs) outputs.push_back(EmptyDense(input));
  return RunInto({.kind = OpKind::kAllreduce,
                  .name = std::move(name),
                  .process_set = process_set,
                  .reduce_op = op,
                  .prescale = prescale,
                  .postscale = postscale},
                 std::move(inputs), std::move(outputs));
}

Tensor Allreduce(Tensor input, std::string name, std::int64_t op, double prescale, double postscale,
                 std::int64_t process_set) {
  return GroupedAllreduce({std::move(input)}, std::move(name), op, prescale, postscale, process_set)
      .front();
}

Tensor Broadcast(Tensor input, std::int64_t root_rank, std::string name, std::int64_t process_set) {
  return RunInto({.kind = OpKind::kBroadcast,
                  .name = std::move(name),
                  .process_set = process_set,
                  .root_rank = root_rank},
                 {input}, {EmptyDense(input)})
      .front();
}

// The mean of all ranks' gradients for the root, and zeros for the others.
Tensor BroadcastGradient(Tensor gradient, std::int64_t root_rank, std::string name,
                         std::int64_t process_set) {
  constexpr auto kAverage = static_cast<std::int64_t>(ReduceOp::kAverage);
  Tensor mean = Allreduce(std::move(gradient), std::move(name), kAverage, 1.0, 1.0, process_set);
  if (PlaceIn(0).rank != root_rank) torch::stable::zero_(mean);
  return mean;
}

Place CheckedPlace(const Terms& terms, std::int64_t size) {
  const Place place = PlaceIn(terms.process_set);
  if (place.size == size) return place;
  Refuse(terms, fmt::format("this graph was compiled for {} ranks, and there are {}; compile the "
                            "model after hvd.init()",
                            size, place.size));
}

Tensor Allgather(Tensor input, std::int64_t rows, std::int64_t size, std::string name,
                 std::int64_t process_set) {
  const Terms terms{
      .kind = OpKind::kAllgather, .name = std::move(name), .process_set = process_set};
  CheckedPlace(terms, size);
  Gathered gathered = RunGathering(terms, input);
  if (gathered.tensor.size(0) != rows) {
    Refuse(terms,
           fmt::format("ranks brought {} rows, and this rank's compiled graph expects {} in all: "
                       "in a compiled graph every rank must bring the same number of rows. Pad "
                       "them, or gather outside of the compiled function",
                       fmt::join(gathered.rows, ", "), rows));
  }
  return std::move(gathered.tensor);
}

Tensor Reducescatter(Tensor input, std::int64_t rows, std::int64_t size, std::string name,
                     std::int64_t op, double prescale, double postscale, std::int64_t process_set) {
  const Terms terms{.kind = OpKind::kReducescatter,
                    .name = std::move(name),
                    .process_set = process_set,
                    .reduce_op = op,
                    .prescale = prescale,
                    .postscale = postscale};
  const Place place = CheckedPlace(terms, size);
  const std::int64_t share = (input.size(0) + place.size - 1 - place.rank) / place.size;
  if (rows != share) {
    Refuse(terms, fmt::format("of {} rows this rank gets {}, and the compiled graph expects {}",
                              input.size(0), share, rows));
  }
  return RunInto(terms, {input}, {EmptyRows(input, rows)}).front();
}

// `rows` < 0: as many as come. `fill`: zeros follow those that come, as in the gradient of rows
// that stayed behind because the splits' sum was smaller.
std::tuple<Tensor, Tensor> Alltoall(Tensor input, Tensor splits, std::int64_t rows, bool fill,
                                    std::string name, std::int64_t process_set) {
  const Terms terms{.kind = OpKind::kAlltoall, .name = std::move(name), .process_set = process_set};
  if (!splits.is_cpu()) Refuse(terms, "the splits are not on the CPU; pass splits.cpu()");
  const Tensor counts = torch::stable::contiguous(torch::stable::to(splits, ScalarType::Long));
  const auto* first = static_cast<const std::int64_t*>(counts.data_ptr());
  const std::span<const std::int64_t> to_each(first, static_cast<std::size_t>(counts.numel()));
  const std::int64_t sent = std::accumulate(to_each.begin(), to_each.end(), std::int64_t{0});
  if (sent > input.size(0)) {
    Refuse(terms,
           fmt::format("splits add up to {}, but the tensor has {} rows", sent, input.size(0)));
  }
  Gathered gathered = RunGathering(terms, torch::stable::narrow(input, 0, 0, sent), to_each);
  const std::int64_t came = gathered.tensor.size(0);
  if (fill && came < rows) {
    gathered.tensor = FilledUp(gathered.tensor, rows);
  } else if (rows >= 0 && came != rows) {
    Refuse(terms, fmt::format("{} rows came, and the compiled graph expects {}", came, rows));
  }
  const std::vector<std::int64_t> dims = {static_cast<std::int64_t>(gathered.rows.size())};
  Tensor received = torch::stable::new_empty(counts, dims);
  std::copy(gathered.rows.begin(), gathered.rows.end(),
            static_cast<std::int64_t*>(received.data_ptr()));
  return {std::move(gathered.tensor), torch::stable::to(received, ScalarType::Int)};
}

// The engine finds out where the tensors are.
template <class Library>
void Implement(Library& library) {
  library.impl("allreduce", TORCH_BOX(&Allreduce));
  library.impl("grouped_allreduce", TORCH_BOX(&GroupedAllreduce));
  library.impl("broadcast", TORCH_BOX(&Broadcast));
  library.impl("broadcast_gradient", TORCH_BOX(&BroadcastGradient));
  library.impl("allgather", TORCH_BOX(&Allgather));
  library.impl("reducescatter", TORCH_BOX(&Reducescatter));
  library.impl("alltoall", TORCH_BOX(&Alltoall));
}

}  // namespace
}  // namespace hora::torch_ops

extern "C" __attribute__((visibility("default"))) bool hora_connect_torch_ops(
    const HoraEngineApi* api) {
  if (api != nullptr && api->version != HORA_ENGINE_API_VERSION) return false;
  hora::torch_ops::Connect(api);
  return true;
}

STABLE_TORCH_LIBRARY_IMPL(hora, CPU, library) { hora::torch_ops::Implement(library); }

STABLE_TORCH_LIBRARY_IMPL(hora, CUDA, library) { hora::torch_ops::Implement(library); }

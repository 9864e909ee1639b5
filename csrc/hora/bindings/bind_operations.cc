#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hora/base/format.h"
#include "hora/bindings/bind.h"
#include "hora/bindings/bound_handle.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/raise.h"
#include "hora/bindings/tensor_access.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// The arguments of submit and run, as Python gives them.
struct Call {
  int kind;
  std::string name;
  py::object input;
  py::object output;
  int reduce_op;
  int root_rank;
  double prescale;
  double postscale;
  int process_set;
  py::object splits;
};

bool IsGroup(const py::object& tensors) {
  return PyList_Check(tensors.ptr()) || PyTuple_Check(tensors.ptr());
}

[[noreturn]] void Refuse(const Call& call, std::string_view problem) {
  Raise(Error(StatusCode::kInvalidArgument, "{} '{}': {}", ToString(static_cast<OpKind>(call.kind)),
              call.name, problem));
}

TensorPair ReadPair(py::handle input, py::handle output) {
  TensorPair pair;
  if (!input.is_none()) pair.input = ReadTensor(input);
  if (output.is(input)) {
    pair.output = pair.input;
  } else if (!output.is_none()) {
    pair.output = ReadTensor(output);
  }
  return pair;
}

// Lists become tuples, whose tensors stay alive whatever the caller does to the list.
void ReadGroup(Call& call, TensorEntry& entry) {
  const bool in_place = call.output.is(call.input);
  const auto frozen = [](const py::object& group) -> py::object { return py::tuple(group); };
  if (!IsGroup(call.input) || (!call.output.is_none() && !IsGroup(call.output))) {
    Refuse(call, "a group has a list of inputs and, where it has outputs, a list of them");
  }
  call.input = frozen(call.input);
  if (!call.output.is_none()) call.output = in_place ? call.input : frozen(call.output);
  const auto inputs = py::reinterpret_borrow<py::tuple>(call.input);
  const std::size_t count = inputs.size();
  if (count == 0) Refuse(call, "a group without tensors");
  if (!call.output.is_none() && py::len(call.output) != count) {
    Refuse(call, fmt::format("{} inputs, but {} outputs", count, py::len(call.output)));
  }
  for (std::size_t i = 0; i < count; ++i) {
    const py::object output =
        call.output.is_none() ? py::none() : py::object(py::tuple(call.output)[i]);
    TensorPair pair = ReadPair(py::object(inputs[i]), output);
    if (i == 0) {
      entry.input = std::move(pair.input);
      entry.output = std::move(pair.output);
    } else {
      entry.request.params.rest.push_back({pair.input.dtype, pair.input.shape});
      entry.rest.push_back(std::move(pair));
    }
  }
}

// The root's place in the set.
int PlaceOfRoot(const Call& call, const ProcessSet& set) {
  if (set.names().is_global()) return call.root_rank;
  const std::vector<int>& ranks = set.names().global_ranks();
  const auto found = std::find(ranks.begin(), ranks.end(), call.root_rank);
  if (found != ranks.end()) return static_cast<int>(found - ranks.begin());
  Refuse(call, fmt::format("root_rank {} is not in process set {} (ranks {})", call.root_rank,
                           set.id(), fmt::join(ranks, ", ")));
}

// Every rank may bring another number of rows, so they are no part of what must be equal.
void TakeRows(Request& request, bool negotiated) {
  const auto take = [&](Shape& shape) {
    if (shape.rank() == 0) return;  // an error soon
    if (negotiated) request.first_dims.push_back(shape.dim(0));
    shape = shape.WithFirstDim(0);
  };
  take(request.params.shape);
  for (TensorSpec& spec : request.params.rest) take(spec.shape);
}

// Without splits, the rows are divided evenly.
std::vector<std::int64_t> SplitsOf(const Call& call, const Shape& shape, int size) {
  if (!call.splits.is_none()) return call.splits.cast<std::vector<std::int64_t>>();
  const std::int64_t rows = shape.rank() == 0 ? 0 : shape.dim(0);
  if (rows % size != 0) {
    Refuse(call,
           fmt::format("{} rows cannot be split evenly among {} ranks; pass splits", rows, size));
  }
  return std::vector<std::int64_t>(static_cast<std::size_t>(size), rows / size);
}

TensorEntry EntryOf(Call& call, const ProcessSet& set) {
  TensorEntry entry;
  OpParams& params = entry.request.params;
  params.kind = static_cast<OpKind>(call.kind);
  if (IsGroup(call.input) || IsGroup(call.output)) {
    ReadGroup(call, entry);
  } else {
    TensorPair pair = ReadPair(call.input, call.output);
    entry.input = std::move(pair.input);
    entry.output = std::move(pair.output);
  }
  // A broadcast's other ranks may have an output only.
  const TensorView& described = call.input.is_none() ? entry.output : entry.input;
  params.dtype = described.dtype;
  params.device = described.device;
  params.shape = described.shape;
  switch (params.kind) {
    case OpKind::kAllreduce:
    case OpKind::kReducescatter:
      params.reduce_op = static_cast<ReduceOp>(call.reduce_op);
      params.prescale = call.prescale;
      params.postscale = call.postscale;
      break;
    case OpKind::kBroadcast:
      params.root_rank = PlaceOfRoot(call, set);
      break;
    case OpKind::kAllgather:
      TakeRows(entry.request, /*negotiated=*/true);
      break;
    case OpKind::kAlltoall:
      entry.splits = SplitsOf(call, entry.input.shape, set.size());
      TakeRows(entry.request, /*negotiated=*/false);
      break;
    case OpKind::kBarrier:
    case OpKind::kJoin:
      break;
  }
  entry.request.name = call.name;
  return entry;
}

std::shared_ptr<ProcessSet> SetOf(const Call& call) {
  Result<std::shared_ptr<ProcessSet>> set = CurrentEngine()->Find(call.process_set);
  if (set) return std::move(*set);
  Refuse(call, set.error().message());
}

std::unique_ptr<BoundHandle> Start(Call&& call, bool will_wait) {
  std::shared_ptr<ProcessSet> set = SetOf(call);
  TensorEntry entry = EntryOf(call, *set);
  auto handle = std::make_shared<Handle>(std::move(call.name));
  entry.handle = handle;
  RaiseIfError(set->Submit(std::move(entry), will_wait));
  return std::make_unique<BoundHandle>(std::move(set), std::move(handle), std::move(call.input),
                                       std::move(call.output));
}

template <bool kWait>
std::unique_ptr<BoundHandle> Operation(int kind, std::string name, py::object input,
                                       py::object output, int reduce_op, int root_rank,
                                       double prescale, double postscale, int process_set,
                                       py::object splits) {
  std::unique_ptr<BoundHandle> bound =
      Start({kind, std::move(name), std::move(input), std::move(output), reduce_op, root_rank,
             prescale, postscale, process_set, std::move(splits)},
            kWait);
  if (kWait) bound->Wait(std::nullopt);
  return bound;
}

template <bool kWait>
void Define(py::module_& module, const char* name) {
  module.def(name, &Operation<kWait>, py::arg("kind"), py::arg("name"), py::arg("input"),
             py::arg("output"), py::arg("reduce_op") = static_cast<int>(ReduceOp::kSum),
             py::arg("root_rank") = -1, py::arg("prescale") = 1.0, py::arg("postscale") = 1.0,
             py::arg("process_set") = 0, py::arg("splits") = py::none());
}

}  // namespace

void BindOperations(py::module_& module) {
  Define<false>(module, "submit");
  Define<true>(module, "run");
}

}  // namespace hora::bindings

#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hora/base/format.h"
#include "hora/bindings/bind.h"
#include "hora/bindings/call_arguments.h"
#include "hora/bindings/handle_object.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/native_call.h"
#include "hora/bindings/raise.h"
#include "hora/bindings/roots.h"
#include "hora/bindings/tensor_access.h"
#include "hora/bindings/usual_call.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// What an operation works on and keeps alive. Lists become tuples, whose tensors stay alive
// whatever the caller does to the list.
struct Operands {
  py::object input;
  py::object output;
};

bool IsGroup(py::handle tensors) {
  return PyList_Check(tensors.ptr()) || PyTuple_Check(tensors.ptr());
}

[[noreturn]] void Refuse(const Call& call, std::string_view problem) {
  Raise(
      Error(StatusCode::kInvalidArgument, "{} '{}': {}", ToString(call.kind), call.name, problem));
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

Operands ReadGroup(const Call& call, TensorEntry& entry) {
  if (!IsGroup(call.input) || (!call.output.is_none() && !IsGroup(call.output))) {
    Refuse(call, "a group has a list of inputs and, where it has outputs, a list of them");
  }
  const auto inputs = py::tuple(py::reinterpret_borrow<py::object>(call.input));
  const std::size_t count = inputs.size();
  if (count == 0) Refuse(call, "a group without tensors");
  Operands operands{inputs, py::none()};
  if (call.output.is(call.input)) {
    operands.output = inputs;
  } else if (!call.output.is_none()) {
    operands.output = py::tuple(py::reinterpret_borrow<py::object>(call.output));
  }
  if (!call.output.is_none() && py::len(operands.output) != count) {
    Refuse(call, fmt::format("{} inputs, but {} outputs", count, py::len(operands.output)));
  }
  for (std::size_t i = 0; i < count; ++i) {
    const auto place = static_cast<Py_ssize_t>(i);
    TensorPair pair =
        ReadPair(PyTuple_GET_ITEM(inputs.ptr(), place),
                 call.output.is_none() ? Py_None : PyTuple_GET_ITEM(operands.output.ptr(), place));
    if (i == 0) {
      entry.input = std::move(pair.input);
      entry.output = std::move(pair.output);
    } else {
      entry.request.params.rest.push_back({pair.input.dtype, pair.input.shape});
      entry.rest.push_back(std::move(pair));
    }
  }
  return operands;
}

Operands ReadOperands(const Call& call, TensorEntry& entry) {
  if (IsGroup(call.input) || IsGroup(call.output)) return ReadGroup(call, entry);
  TensorPair pair = ReadPair(call.input, call.output);
  entry.input = std::move(pair.input);
  entry.output = std::move(pair.output);
  return {py::reinterpret_borrow<py::object>(call.input),
          py::reinterpret_borrow<py::object>(call.output)};
}

// One tensor that the engine can work on as it is; null when it is not.
std::optional<Operands> ReadPlainOperands(const Call& call, TensorEntry& entry) {
  std::optional<TensorView> input = ReadPlainTensor(call.input);
  if (!input) return std::nullopt;
  entry.output = call.output.is(call.input) ? *input : ReadTensor(call.output);
  entry.input = std::move(*input);
  return Operands{py::reinterpret_borrow<py::object>(call.input),
                  py::reinterpret_borrow<py::object>(call.output)};
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
  if (!call.splits.is_none()) {
    try {
      return call.splits.cast<std::vector<std::int64_t>>();
    } catch (const py::cast_error&) {
      throw py::type_error("splits is a list of integers or None");
    }
  }
  const std::int64_t rows = shape.rank() == 0 ? 0 : shape.dim(0);
  if (rows % size != 0) {
    Refuse(call,
           fmt::format("{} rows cannot be split evenly among {} ranks; pass splits", rows, size));
  }
  return std::vector<std::int64_t>(static_cast<std::size_t>(size), rows / size);
}

// What ranks must agree on, once the tensors are known.
void Describe(const Call& call, const ProcessSet& set, TensorEntry& entry) {
  OpParams& params = entry.request.params;
  params.kind = call.kind;
  params.priority = call.priority;
  // A broadcast's other ranks may have an output only.
  const TensorView& described = call.input.is_none() ? entry.output : entry.input;
  params.dtype = described.dtype;
  params.device = described.device;
  params.shape = described.shape;
  switch (params.kind) {
    case OpKind::kAllreduce:
    case OpKind::kReducescatter:
      params.reduce_op = call.reduce_op;
      params.prescale = call.prescale;
      params.postscale = call.postscale;
      break;
    case OpKind::kBroadcast:
      if (const Result<int> place = PlaceOfRoot(call.root_rank, set)) {
        params.root_rank = *place;
      } else {
        Refuse(call, place.error().message());
      }
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
}

std::shared_ptr<ProcessSet> SetOf(const Call& call) {
  Result<std::shared_ptr<ProcessSet>> set = CurrentEngine()->Find(call.process_set);
  if (set) return std::move(*set);
  Refuse(call, set.error().message());
}

// What orders the operation among the work of PyTorch on the GPU, one event for all of its tensors.
std::shared_ptr<DeviceUse> UseDevice(const Call& call, const Operands& operands,
                                     TensorEntry& entry) {
  py::handle tensor = operands.input.is_none() ? operands.output : operands.input;
  if (PyTuple_Check(tensor.ptr())) tensor = PyTuple_GET_ITEM(tensor.ptr(), 0);
  Result<std::shared_ptr<DeviceUse>> use =
      DeviceUse::Begin(CurrentEngine()->device(), entry.request.params.device.index,
                       StreamQueryOf(tensor), entry.ready);
  if (use) return std::move(*use);
  Raise(Error(use.error().code(), "{} '{}': {}", ToString(call.kind), call.name,
              use.error().message()));
}

BoundHandle Enqueue(const Call& call, std::shared_ptr<ProcessSet> set, TensorEntry entry,
                    Operands operands, bool will_wait) {
  Describe(call, *set, entry);
  std::shared_ptr<DeviceUse> device;
  if (entry.request.params.device.type == DeviceType::kCuda) [[unlikely]] {
    device = UseDevice(call, operands, entry);
  }
  auto handle = std::make_shared<Handle>(std::string(call.name));
  entry.handle = handle;
  RaiseIfError(set->Submit(std::move(entry), will_wait));
  return BoundHandle(std::move(set), std::move(handle), std::move(operands.input),
                     std::move(operands.output), std::move(device));
}

BoundHandle Start(const Call& call, bool will_wait) {
  std::shared_ptr<ProcessSet> set = SetOf(call);
  TensorEntry entry;
  Operands operands = ReadOperands(call, entry);
  return Enqueue(call, std::move(set), std::move(entry), std::move(operands), will_wait);
}

// Null, with nothing done, unless the tensor is plain.
std::optional<BoundHandle> StartPlain(const Call& call, bool will_wait) {
  TensorEntry entry;
  std::optional<Operands> operands = ReadPlainOperands(call, entry);
  if (!operands) return std::nullopt;
  return Enqueue(call, SetOf(call), std::move(entry), std::move(*operands), will_wait);
}

PyObject* Submit(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  return Guarded([&] {
    const Call call = ReadCall(args, count, keywords);
    return MakeHandle(nullptr, Start(call, /*will_wait=*/false), py::none()).release().ptr();
  });
}

PyObject* Run(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  return Guarded([&] {
    BoundHandle operation = Start(ReadCall(args, count, keywords), /*will_wait=*/true);
    operation.Wait(std::nullopt);
    return MakeHandle(nullptr, std::move(operation), py::none()).release().ptr();
  });
}

PyObject* StartUsual(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return Guarded([&]() -> PyObject* {
    const std::optional<Call> call = ReadUsualCall(args, count);
    if (!call) Py_RETURN_NONE;
    std::optional<BoundHandle> operation = StartPlain(*call, /*will_wait=*/false);
    if (!operation) Py_RETURN_NONE;
    MarkChanged(*call);
    auto* type = reinterpret_cast<PyTypeObject*>(Usual().handle_class.ptr());
    return MakeHandle(type, std::move(*operation), py::reinterpret_borrow<py::object>(call->output))
        .release()
        .ptr();
  });
}

PyObject* RunUsual(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return Guarded([&]() -> PyObject* {
    const std::optional<Call> call = ReadUsualCall(args, count);
    if (!call) Py_RETURN_FALSE;
    std::optional<BoundHandle> operation = StartPlain(*call, /*will_wait=*/true);
    if (!operation) Py_RETURN_FALSE;
    operation->Wait(std::nullopt);
    MarkChanged(*call);
    Py_RETURN_TRUE;
  });
}

PyObject* TryRun(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  return Guarded([&] {
    std::optional<BoundHandle> operation =
        StartPlain(ReadCall(args, count, keywords), /*will_wait=*/true);
    if (operation) operation->Wait(std::nullopt);
    return PyBool_FromLong(operation.has_value());
  });
}

PyObject* IsPlain(PyObject*, PyObject* tensor) {
  return Guarded([&] { return PyBool_FromLong(ReadPlainTensor(tensor).has_value()); });
}

}  // namespace

void BindOperations(py::module_& module) {
  constexpr int kFlags = METH_FASTCALL | METH_KEYWORDS;
  static PyMethodDef functions[] = {
      {"submit", AsCFunction(Submit), kFlags, "Submits an operation; returns its handle."},
      {"run", AsCFunction(Run), kFlags, "submit() and wait() in one."},
      {"start_usual", AsCFunction(StartUsual), METH_FASTCALL, "The usual submit(), or None."},
      {"run_usual", AsCFunction(RunUsual), METH_FASTCALL, "The usual run(), or False."},
      {"try_run", AsCFunction(TryRun), kFlags, "run() for one plain tensor, or False."},
      {"is_plain", IsPlain, METH_O, "Whether the engine can work on a tensor as it is."},
      {}};
  if (PyModule_AddFunctions(module.ptr(), functions) != 0) throw py::error_already_set();
  module.def("set_plain_types", [](const py::args& types) { SetPlainTypes(types); });
  module.def(
      "set_usual",
      [](py::type handle_class, py::type operators, py::object global_set, py::object profiling,
         py::object bump) {
        Usual() = {std::move(handle_class), std::move(operators), std::move(global_set),
                   std::move(profiling), std::move(bump)};
      },
      py::arg("handle_class"), py::arg("operators"), py::arg("global_set"), py::arg("profiling"),
      py::arg("bump"));
}

}  // namespace hora::bindings

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hora/base/format.h"
#include "hora/bindings/bind.h"
#include "hora/bindings/bound_handle.h"
#include "hora/bindings/device_calls.h"
#include "hora/bindings/device_use.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/roots.h"
#include "hora/torch_ops/engine_api.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

constexpr Duration kSignalCheckInterval = std::chrono::milliseconds(100);

// Owns what a HoraResult points to.
struct Operation {
  std::shared_ptr<Handle> handle;     // null: it was not submitted
  std::shared_ptr<DeviceUse> device;  // null: the CPU's
  std::string error;
};

// Names of operations without one: "allreduce.compiled.3", counted for each kind and process set.
// Guarded by the GIL.
class CompiledNames {
 public:
  std::string Claim(const HoraCall& call) {
    std::uint32_t& next = next_[{call.process_set, call.kind}];
    return fmt::format("{}.compiled.{}", ToString(static_cast<OpKind>(call.kind)), next++ % kRing);
  }

  // For a refused operation, of which the other ranks know nothing.
  void GiveBack(const HoraCall& call) { --next_[{call.process_set, call.kind}]; }

  // Counts anew, in one process set or in all.
  void Forget(std::optional<std::int32_t> process_set) {
    std::erase_if(next_, [&](const auto& entry) {
      return !process_set || entry.first.first == *process_set;
    });
  }

 private:
  static constexpr std::uint32_t kRing = 256;

  std::map<std::pair<std::int32_t, std::int32_t>, std::uint32_t> next_;
};

CompiledNames& Names() {
  static auto* names = new CompiledNames();
  return *names;
}

TensorView ViewOf(const HoraTensor& tensor) {
  return {.data = static_cast<std::byte*>(tensor.data),
          .dtype = static_cast<DType>(tensor.dtype),
          .device = tensor.gpu < 0
                        ? Device{}
                        : Device{DeviceType::kCuda, static_cast<std::int16_t>(tensor.gpu)},
          .shape = Shape(std::span(tensor.dims, static_cast<std::size_t>(tensor.ndim)))};
}

TensorEntry TensorsOf(const HoraCall& call) {
  TensorEntry entry;
  OpParams& params = entry.request.params;
  for (std::size_t i = 0; i < call.tensor_count; ++i) {
    TensorPair pair{.input = ViewOf(call.inputs[i])};
    if (call.outputs != nullptr) pair.output = ViewOf(call.outputs[i]);
    if (i == 0) {
      params.dtype = pair.input.dtype;
      params.shape = pair.input.shape;
      params.device = pair.input.device;
      entry.input = std::move(pair.input);
      entry.output = std::move(pair.output);
    } else {
      params.rest.push_back({pair.input.dtype, pair.input.shape});
      entry.rest.push_back(std::move(pair));
    }
  }
  return entry;
}

Result<TensorEntry> EntryOf(const HoraCall& call, const ProcessSet& set) {
  TensorEntry entry = TensorsOf(call);
  OpParams& params = entry.request.params;
  params.kind = static_cast<OpKind>(call.kind);
  switch (params.kind) {
    case OpKind::kAllreduce:
    case OpKind::kReducescatter:
      params.reduce_op = static_cast<ReduceOp>(call.reduce_op);
      params.prescale = call.prescale;
      params.postscale = call.postscale;
      break;
    case OpKind::kBroadcast:
      if (Result<int> place = PlaceOfRoot(call.root_rank, set)) {
        params.root_rank = *place;
      } else {
        return Fail(std::move(place.error()));
      }
      break;
    case OpKind::kAllgather:
    case OpKind::kAlltoall:
      if (params.shape.rank() == 0) break;  // refused soon
      if (params.kind == OpKind::kAllgather) entry.request.first_dims = {params.shape.dim(0)};
      params.shape = params.shape.WithFirstDim(0);
      entry.splits.assign(call.splits, call.splits + call.split_count);
      break;
    case OpKind::kBarrier:
    case OpKind::kJoin:
      break;
  }
  return entry;
}

std::string Refusal(const HoraCall& call, const Status& status) {
  const std::string name = *call.name == '\0' ? "" : fmt::format(" '{}'", call.name);
  return fmt::format("{}{}: {}", ToString(static_cast<OpKind>(call.kind)), name, status.message());
}

// The GIL is held and stays so, but for the wait. Null: `operation` says why not.
std::shared_ptr<ProcessSet> Submit(const HoraCall& call, Operation& operation) {
  const std::shared_ptr<Engine> engine = CurrentEngine();
  Result<std::shared_ptr<ProcessSet>> set = engine->Find(call.process_set);
  if (!set) {
    operation.error = set.error().message();
    return nullptr;
  }
  Result<TensorEntry> entry = EntryOf(call, **set);
  if (!entry) {
    operation.error = Refusal(call, entry.error());
    return nullptr;
  }
  const Device device = entry->request.params.device;
  if (device.type == DeviceType::kCuda) {
    auto use = DeviceUse::Begin(engine->device(), device.index, PlainStreamQuery(), entry->ready);
    if (!use) {
      operation.error = Refusal(call, use.error());
      return nullptr;
    }
    operation.device = std::move(*use);
  }
  const bool unnamed = *call.name == '\0';
  entry->request.name = unnamed ? Names().Claim(call) : call.name;
  entry->handle = std::make_shared<Handle>(entry->request.name);
  operation.handle = entry->handle;
  const Status status = (*set)->Submit(std::move(*entry), /*will_wait=*/true);
  if (status.ok()) return std::move(*set);
  if (unnamed) Names().GiveBack(call);
  operation.handle = nullptr;
  operation.error = status.message();
  return nullptr;
}

// Ends early when a signal's handler raised. The exception cannot pass through LibTorch, so it is
// told in the error; a Ctrl-C is raised again as soon as Python runs.
void WaitFor(ProcessSet& set, Operation& operation) {
  const Handle& handle = *operation.handle;
  while (!handle.done()) {
    {
      const py::gil_scoped_release release;
      set.Wait(handle, SteadyClock::Instance().Now() + kSignalCheckInterval);
    }
    if (handle.done() || PyErr_CheckSignals() == 0) continue;
    const py::error_already_set raised;
    operation.error = fmt::format("'{}' was interrupted: {}", handle.name(), raised.what());
    if (raised.matches(PyExc_KeyboardInterrupt)) PyErr_SetInterrupt();
    return;
  }
  operation.error = handle.status().message();
  if (operation.device == nullptr) return;
  const auto followed = operation.device->Follow(handle.outcome().on_device);
  if (!followed && operation.error.empty()) operation.error = followed.error().message();
}

void Run(const HoraCall* call, HoraResult* result) {
  const py::gil_scoped_acquire gil;
  auto operation = std::make_unique<Operation>();
  try {
    if (const std::shared_ptr<ProcessSet> set = Submit(*call, *operation)) {
      WaitFor(*set, *operation);
    }
  } catch (const std::exception& failure) {  // not initialised
    operation->error = failure.what();
  }
  const Handle* const handle = operation->handle.get();
  result->in_use = handle != nullptr && UsesOperands(*handle, operation->device.get());
  if (!operation->error.empty()) {
    result->error = operation->error.c_str();
  } else if (!operation->handle->gathered().empty()) {
    const Gathered& gathered = *operation->handle->gathered().front();
    result->bytes = gathered.bytes().size();
    result->rows = gathered.rows_by_rank().data();
    result->row_count = gathered.rows_by_rank().size();
  }
  result->owner = operation.release();
}

void Keep(HoraResult* result, void* tensors, void (*drop)(void* tensors)) {
  const py::gil_scoped_acquire gil;
  const auto& operation = *static_cast<Operation*>(result->owner);
  KeepOperands(operation.handle, operation.device, py::capsule(tensors, drop));
}

Status CopyInStream(DeviceUse& device, const Gathered& from, void* to) {
  Status status = device.runtime().Copy(static_cast<std::byte*>(to), from.bytes().data(),
                                        from.bytes().size(), device.stream_now());
  // The memory is given back while the copy may still be to come.
  const py::handle tensor = TensorOf(from.on_device());
  if (tensor) CallsOnDevice().record(tensor);
  return status;
}

bool Fetch(HoraResult* result, void* to) {
  auto& operation = *static_cast<Operation*>(result->owner);
  const Gathered& from = *operation.handle->gathered().front();
  if (operation.device == nullptr) {
    std::memcpy(to, from.bytes().data(), from.bytes().size());
    return true;
  }
  const py::gil_scoped_acquire gil;
  try {
    const Status status = CopyInStream(*operation.device, from, to);
    operation.error = status.message();
  } catch (const std::exception& failure) {
    operation.error = failure.what();
  }
  if (!operation.error.empty()) result->error = operation.error.c_str();
  return operation.error.empty();
}

void Release(HoraResult* result) {
  delete static_cast<Operation*>(result->owner);
  *result = {};
}

bool FindPlace(std::int32_t process_set, std::int32_t* rank, std::int32_t* size) {
  const py::gil_scoped_acquire gil;
  if (!HasEngine()) return false;
  const Result<std::shared_ptr<ProcessSet>> set = CurrentEngine()->Find(process_set);
  if (!set) return false;
  *rank = (*set)->rank();
  *size = (*set)->size();
  return true;
}

constexpr HoraEngineApi kApi{.version = HORA_ENGINE_API_VERSION,
                             .place = FindPlace,
                             .run = Run,
                             .keep = Keep,
                             .fetch = Fetch,
                             .release = Release};

}  // namespace

void BindTorchOps(py::module_& module) {
  module.def("torch_ops_api", [] { return reinterpret_cast<std::uintptr_t>(&kApi); });
  module.def(
      "forget_compiled_names",
      [](std::optional<std::int32_t> process_set) { Names().Forget(process_set); },
      py::arg("process_set") = py::none());
}

}  // namespace hora::bindings

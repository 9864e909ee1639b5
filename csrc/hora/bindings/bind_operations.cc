#include <memory>
#include <string>
#include <utility>

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
};

TensorEntry EntryOf(const Call& call) {
  TensorEntry entry;
  if (!call.input.is_none()) entry.input = ReadTensor(call.input);
  if (call.output.is(call.input)) {
    entry.output = entry.input;
  } else if (!call.output.is_none()) {
    entry.output = ReadTensor(call.output);
  }
  OpParams& params = entry.request.params;
  params.kind = static_cast<OpKind>(call.kind);
  params.dtype = entry.input.dtype;
  params.device = entry.input.device;
  params.shape = entry.input.shape;
  if (params.kind == OpKind::kAllreduce) {
    params.reduce_op = static_cast<ReduceOp>(call.reduce_op);
    params.prescale = call.prescale;
    params.postscale = call.postscale;
  } else if (params.kind == OpKind::kBroadcast) {
    params.root_rank = call.root_rank;
  } else if (params.kind == OpKind::kAllgather && params.shape.rank() > 0) {
    entry.request.first_dim = params.shape.dim(0);
    params.shape = params.shape.WithFirstDim(0);  // every rank may bring another number of rows
  }
  entry.request.name = call.name;
  return entry;
}

std::unique_ptr<BoundHandle> Start(Call&& call, bool will_wait) {
  std::shared_ptr<Engine> engine = CurrentEngine();
  TensorEntry entry = EntryOf(call);
  auto handle = std::make_shared<Handle>(std::move(call.name));
  entry.handle = handle;
  RaiseIfError(engine->Submit(std::move(entry), will_wait));
  return std::make_unique<BoundHandle>(std::move(engine), std::move(handle), std::move(call.input),
                                       std::move(call.output));
}

template <bool kWait>
std::unique_ptr<BoundHandle> Operation(int kind, std::string name, py::object input,
                                       py::object output, int reduce_op, int root_rank,
                                       double prescale, double postscale) {
  std::unique_ptr<BoundHandle> bound =
      Start({kind, std::move(name), std::move(input), std::move(output), reduce_op, root_rank,
             prescale, postscale},
            kWait);
  if (kWait) bound->Wait(std::nullopt);
  return bound;
}

template <bool kWait>
void Define(py::module_& module, const char* name) {
  module.def(name, &Operation<kWait>, py::arg("kind"), py::arg("name"), py::arg("input"),
             py::arg("output"), py::arg("reduce_op") = static_cast<int>(ReduceOp::kSum),
             py::arg("root_rank") = -1, py::arg("prescale") = 1.0, py::arg("postscale") = 1.0);
}

}  // namespace

void BindOperations(py::module_& module) {
  Define<false>(module, "submit");
  Define<true>(module, "run");
}

}  // namespace hora::bindings

#include <pybind11/pybind11.h>

#include "hora/bindings/bind.h"
#include "hora/tensor/op_kind.h"
#include "hora/tensor/reduce_op.h"

namespace hora::bindings {

void BindConstants(pybind11::module_& module) {
  const auto constant = [&](const char* name, auto value) {
    module.attr(name) = static_cast<int>(value);
  };
  constant("ALLREDUCE", OpKind::kAllreduce);
  constant("ALLGATHER", OpKind::kAllgather);
  constant("BROADCAST", OpKind::kBroadcast);
  constant("BARRIER", OpKind::kBarrier);
  constant("ALLTOALL", OpKind::kAlltoall);
  constant("REDUCESCATTER", OpKind::kReducescatter);
  constant("JOIN", OpKind::kJoin);
  constant("AVERAGE", ReduceOp::kAverage);
  constant("SUM", ReduceOp::kSum);
  constant("ADASUM", ReduceOp::kAdasum);
  constant("MIN", ReduceOp::kMin);
  constant("MAX", ReduceOp::kMax);
  constant("PRODUCT", ReduceOp::kProduct);
}

}  // namespace hora::bindings

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ engine of this process.";
  hora::bindings::BindConstants(module);
  hora::bindings::BindHandle(module);
  hora::bindings::BindEngine(module);
  hora::bindings::BindDevice(module);
  hora::bindings::BindNetwork(module);
  hora::bindings::BindProcessSets(module);
  hora::bindings::BindObservation(module);
  hora::bindings::BindOperations(module);
  hora::bindings::BindGradients(module);
  hora::bindings::BindSymmetricMemory(module);
  hora::bindings::BindTorchOps(module);
}

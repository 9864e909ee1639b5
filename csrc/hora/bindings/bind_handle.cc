#include <pybind11/stl.h>

#include "hora/base/format.h"
#include "hora/bindings/bind.h"
#include "hora/bindings/bound_handle.h"
#include "hora/bindings/dlpack_abi.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// What the capsule's consumer keeps alive.
struct Lease {
  dlpack::ManagedTensor managed;
  std::shared_ptr<Gathered> gathered;
  std::int64_t shape;
  std::int64_t stride;
};

void EndLease(dlpack::ManagedTensor* managed) { delete static_cast<Lease*>(managed->context); }

// A consumer renames the capsule; only one that nobody consumed still owns its lease.
void DropCapsule(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, dlpack::kTensorCapsule)) return;
  auto* managed =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, dlpack::kTensorCapsule));
  managed->deleter(managed);
}

py::object ToDLPack(const std::shared_ptr<Gathered>& gathered, const py::kwargs&) {
  const std::span<std::byte> bytes = gathered->bytes();
  auto lease = std::make_unique<Lease>();
  lease->gathered = gathered;
  lease->shape = static_cast<std::int64_t>(bytes.size());
  lease->stride = 1;
  lease->managed = {.tensor = {.data = bytes.data(),
                               .device = {dlpack::kCpu, 0},
                               .ndim = 1,
                               .dtype = {dlpack::kUInt, 8, 1},
                               .shape = &lease->shape,
                               .strides = &lease->stride,
                               .byte_offset = 0},
                    .context = lease.get(),
                    .deleter = EndLease};
  PyObject* capsule = PyCapsule_New(&lease->managed, dlpack::kTensorCapsule, DropCapsule);
  if (capsule == nullptr) throw py::error_already_set();
  lease.release();  // the capsule's now
  return py::reinterpret_steal<py::object>(capsule);
}

const std::vector<std::shared_ptr<Gathered>>& GatheredOf(const BoundHandle& bound) {
  const Handle& handle = bound.handle();
  if (!handle.done() || handle.gathered().empty()) {
    Raise(Error(StatusCode::kInvalidArgument, "'{}' is not a finished allgather or alltoall",
                handle.name()));
  }
  return handle.gathered();
}

int LastJoinedOf(const BoundHandle& bound) {
  const Handle& handle = bound.handle();
  if (!handle.done() || handle.last_joined() < 0) {
    Raise(Error(StatusCode::kInvalidArgument, "'{}' is not a finished join", handle.name()));
  }
  return handle.last_joined();
}

}  // namespace

void BindHandle(py::module_& module) {
  py::class_<BoundHandle, std::unique_ptr<BoundHandle>>(module, "Handle")
      .def_property_readonly("name", [](const BoundHandle& bound) { return bound.handle().name(); })
      .def("done", [](const BoundHandle& bound) { return bound.handle().done(); })
      .def("wait", &BoundHandle::Wait, py::arg("timeout") = py::none())
      .def("gathered", &GatheredOf)
      .def("last_joined", &LastJoinedOf);
  py::class_<Gathered, std::shared_ptr<Gathered>>(module, "Gathered")
      .def_property_readonly("first_dims", &Gathered::rows_by_rank)
      .def_property_readonly("nbytes",
                             [](const Gathered& gathered) { return gathered.bytes().size(); })
      .def("__dlpack__", &ToDLPack)
      .def("__dlpack_device__", [](const Gathered&) { return py::make_tuple(dlpack::kCpu, 0); });
}

}  // namespace hora::bindings

#include "hora/bindings/dlpack_lease.h"

#include <cstdint>
#include <utility>

#include "hora/bindings/dlpack_abi.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// What the capsule's consumer keeps alive.
struct Lease {
  dlpack::ManagedTensor managed;
  std::shared_ptr<const void> owner;
  std::int64_t shape;
  std::int64_t stride;
};

dlpack::DeviceId IdOf(const Device& device) {
  return {device.type == DeviceType::kCpu ? dlpack::kCpu : dlpack::kCuda, device.index};
}

void EndLease(dlpack::ManagedTensor* managed) { delete static_cast<Lease*>(managed->context); }

// A consumer renames the capsule; only one that nobody consumed still owns its lease.
void DropCapsule(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, dlpack::kTensorCapsule)) return;
  auto* managed =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, dlpack::kTensorCapsule));
  managed->deleter(managed);
}

}  // namespace

py::object LeaseBytes(std::shared_ptr<const void> owner, std::span<std::byte> bytes,
                      const Device& device) {
  auto lease = std::make_unique<Lease>();
  lease->owner = std::move(owner);
  lease->shape = static_cast<std::int64_t>(bytes.size());
  lease->stride = 1;
  lease->managed = {.tensor = {.data = bytes.data(),
                               .device = IdOf(device),
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

py::tuple DLPackDevice(const Device& device) {
  const dlpack::DeviceId id = IdOf(device);
  return py::make_tuple(id.type, id.index);
}

}  // namespace hora::bindings

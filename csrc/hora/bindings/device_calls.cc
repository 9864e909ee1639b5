#include "hora/bindings/device_calls.h"

#include <cstdint>
#include <utility>

#include "hora/base/format.h"
#include "hora/bindings/dlpack_abi.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

bool HasInterpreter() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsInitialized() != 0 && Py_IsFinalizing() == 0;
#else
  return Py_IsInitialized() != 0 && _Py_IsFinalizing() == 0;
#endif
}

// Lets go of the tensor whose memory somebody of the core has held. Any thread; what is left when
// the interpreter ends goes with the process.
struct DropTensor {
  PyObject* tensor;
  void operator()(std::byte*) const noexcept {
    if (!HasInterpreter()) return;
    const py::gil_scoped_acquire gil;
    Py_DECREF(tensor);
  }
};

Result<std::shared_ptr<std::byte>> AllocateTensor(int device, std::size_t bytes,
                                                  DeviceStream stream) {
  const auto failed = [&](std::string_view why) {
    return Fail(Error(StatusCode::kResource, "there are no {} bytes on cuda:{} for a result: {}",
                      bytes, device, why));
  };
  if (!HasInterpreter()) return failed("Python is ending");
  const py::gil_scoped_acquire gil;
  try {
    py::object tensor =
        CallsOnDevice().allocate(device, bytes, reinterpret_cast<std::uintptr_t>(stream.native));
    const TensorView memory = ReadTensor(tensor);
    if (memory.nbytes() < bytes) return failed("PyTorch gave less");
    return std::shared_ptr<std::byte>(memory.data, DropTensor{tensor.release().ptr()});
  } catch (const std::exception& failure) {  // out of memory, mostly
    return failed(failure.what());
  }
}

}  // namespace

DeviceCalls& CallsOnDevice() {
  static auto* calls = new DeviceCalls();  // never destroyed: there may be no interpreter by then
  return *calls;
}

DeviceStream CurrentStream(StreamQuery query, int device) {
  if (query != nullptr) {
    void* stream = nullptr;
    if (query(dlpack::kCuda, device, &stream) != 0) throw py::error_already_set();
    return {stream};
  }
  const py::object& ask = CallsOnDevice().current_stream;
  if (!ask) {
    Raise(Error(StatusCode::kInternal,
                "nobody has told which stream of cuda:{} is current; import hora.torch", device));
  }
  return {reinterpret_cast<void*>(ask(device).cast<std::uintptr_t>())};
}

RankDevice::Allocate ResultAllocator() { return AllocateTensor; }

py::handle TensorOf(const std::shared_ptr<std::byte>& memory) {
  const auto* drop = std::get_deleter<DropTensor>(memory);
  return drop == nullptr ? nullptr : drop->tensor;
}

}  // namespace hora::bindings

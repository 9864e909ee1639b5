#include "hora/bindings/device_calls.h"

#include <cstdint>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/bindings/dlpack_abi.h"
#include "hora/bindings/inside_python.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// Lets go of the tensor whose memory somebody of the core has held. Any thread; what is left when
// the interpreter ends goes with the process.
struct DropTensor {
  PyObject* tensor;
  void operator()(std::byte*) const noexcept {
    if (const InsidePython inside; inside.ok()) Py_DECREF(tensor);
  }
};

Result<std::shared_ptr<std::byte>> AllocateTensor(int device, std::size_t bytes,
                                                  DeviceStream stream) {
  const auto failed = [&](std::string_view why) {
    return Fail(Error(StatusCode::kResource, "there are no {} bytes on cuda:{} for a result: {}",
                      bytes, device, why));
  };
  const InsidePython inside;
  if (!inside.ok()) return failed("Python is ending");
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

void EmptyCache(int device) {
  const InsidePython inside;
  if (!inside.ok()) return;
  const py::object& empty_cache = CallsOnDevice().empty_cache;
  if (!empty_cache || empty_cache.is_none()) return;
  try {
    empty_cache(device);
  } catch (const std::exception& failure) {
    Log(LogLevel::kWarning, -1,
        fmt::format("PyTorch could not give back memory of cuda:{} that it does not use: {}",
                    device, failure.what()));
  }
}

py::handle TensorOf(const std::shared_ptr<std::byte>& memory) {
  const auto* drop = std::get_deleter<DropTensor>(memory);
  return drop == nullptr ? nullptr : drop->tensor;
}

}  // namespace hora::bindings

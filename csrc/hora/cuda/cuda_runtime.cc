#include "hora/cuda/cuda_runtime.h"

#include <dlfcn.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

#include "hora/base/format.h"
#include "hora/base/wait.h"

namespace hora {
namespace {

using std::chrono::microseconds;

static_assert(sizeof(PieceCopy) == sizeof(hora_cuda_piece) &&
              offsetof(PieceCopy, from) == offsetof(hora_cuda_piece, from) &&
              offsetof(PieceCopy, to) == offsetof(hora_cuda_piece, to) &&
              offsetof(PieceCopy, elements) == offsetof(hora_cuda_piece, elements));

// The C functions as a DeviceRuntime. Owns nothing; any thread. Only Await blocks, and allocations
// do as CUDA does.
class CudaRuntime final : public DeviceRuntime {
 public:
  CudaRuntime(const hora_cuda& functions, std::string description, int devices)
      : functions_(functions), description_(std::move(description)), devices_(devices) {}

  std::string description() const override { return description_; }
  int device_count() const override { return devices_; }

  Result<DeviceFacts> Facts(int device) override {
    hora_cuda_facts facts{};
    Status status =
        Call([&](hora_cuda_error* error) { return functions_.facts(device, &facts, error); });
    if (!status.ok()) return Fail(std::move(status));
    return DeviceFacts{.name = facts.name,
                       .uuid = facts.uuid,
                       .compute_major = facts.compute_major,
                       .compute_minor = facts.compute_minor,
                       .memory_bytes = facts.memory_bytes};
  }

  Status MakeCurrent(int device) override {
    return Call([&](hora_cuda_error* error) { return functions_.make_current(device, error); });
  }
  Result<int> Current() override {
    std::int32_t device = -1;
    Status status =
        Call([&](hora_cuda_error* error) { return functions_.current(&device, error); });
    if (!status.ok()) return Fail(std::move(status));
    return device;
  }

  Result<DeviceStream> CreateStream(int device, bool urgent) override {
    DeviceStream stream;
    Status status = Call([&](hora_cuda_error* error) {
      return functions_.create_stream(device, urgent ? 1 : 0, &stream.native, error);
    });
    if (!status.ok()) return Fail(std::move(status));
    return stream;
  }
  void Destroy(DeviceStream stream) noexcept override { functions_.destroy_stream(stream.native); }

  Result<DeviceEvent> CreateEvent(int device) override {
    DeviceEvent event;
    Status status = Call([&](hora_cuda_error* error) {
      return functions_.create_event(device, &event.native, error);
    });
    if (!status.ok()) return Fail(std::move(status));
    return event;
  }
  void Destroy(DeviceEvent event) noexcept override { functions_.destroy_event(event.native); }

  Status Record(DeviceEvent event, DeviceStream stream) override {
    return Call([&](hora_cuda_error* error) {
      return functions_.record(event.native, stream.native, error);
    });
  }
  Status Wait(DeviceStream stream, DeviceEvent event) override {
    return Call([&](hora_cuda_error* error) {
      return functions_.wait(stream.native, event.native, error);
    });
  }

  Result<bool> IsCapturing(DeviceStream stream) override {
    std::int32_t capturing = 0;
    Status status = Call([&](hora_cuda_error* error) {
      return functions_.is_capturing(stream.native, &capturing, error);
    });
    if (!status.ok()) return Fail(std::move(status));
    return capturing != 0;
  }
  CaptureMode ExchangeCaptureMode(CaptureMode mode) noexcept override {
    auto exchanged = static_cast<std::int32_t>(mode);
    functions_.exchange_capture_mode(&exchanged);
    return static_cast<CaptureMode>(exchanged);
  }

  Result<bool> IsDone(DeviceEvent event) override {
    std::int32_t done = 0;
    Status status = Call(
        [&](hora_cuda_error* error) { return functions_.is_done(event.native, &done, error); });
    if (!status.ok()) return Fail(std::move(status));
    return done != 0;
  }

  // CUDA's own wait has no deadline.
  Status Await(DeviceEvent event, TimePoint deadline) override {
    const Clock& clock = SteadyClock::Instance();
    const TimePoint patient_from = clock.Now() + microseconds(100);
    while (true) {
      const Result<bool> done = IsDone(event);
      if (!done) return done.error();
      if (*done) return Status::Ok();
      const TimePoint now = clock.Now();
      if (now >= deadline) {
        return Error(StatusCode::kTimeout,
                     "the GPU has not come to an event within the time that it was given: "
                     "what was put on its stream before takes longer, or waits for another rank");
      }
      if (now < patient_from) {
        YieldCore();
      } else {
        std::this_thread::sleep_for(microseconds(20));
      }
    }
  }

  Result<std::byte*> AllocateDevice(int device, std::size_t bytes) override {
    void* memory = nullptr;
    Status status = Call([&](hora_cuda_error* error) {
      return functions_.allocate_device(device, bytes, &memory, error);
    });
    if (!status.ok()) return Fail(Of(std::move(status), bytes));
    return static_cast<std::byte*>(memory);
  }
  void FreeDevice(std::byte* memory) noexcept override { functions_.free_device(memory); }

  Result<std::byte*> AllocatePinned(std::size_t bytes) override {
    void* memory = nullptr;
    Status status = Call(
        [&](hora_cuda_error* error) { return functions_.allocate_pinned(bytes, &memory, error); });
    if (!status.ok()) return Fail(Of(std::move(status), bytes));
    return static_cast<std::byte*>(memory);
  }
  void FreePinned(std::byte* memory) noexcept override { functions_.free_pinned(memory); }

  Status Copy(std::byte* to, const std::byte* from, std::size_t bytes,
              DeviceStream stream) override {
    return Call([&](hora_cuda_error* error) {
      return functions_.copy(to, from, bytes, stream.native, error);
    });
  }

  Status CopyMany(std::span<const PieceCopy> pieces, const ElementCopy& element,
                  DeviceStream stream) override {
    const hora_cuda_element what{.from = static_cast<std::uint8_t>(element.from),
                                 .to = static_cast<std::uint8_t>(element.to),
                                 .divisor = element.divisor,
                                 .scale = element.scale};
    const auto* const list = reinterpret_cast<const hora_cuda_piece*>(pieces.data());
    return Call([&](hora_cuda_error* error) {
      return functions_.copy_many(list, pieces.size(), &what, stream.native, error);
    });
  }

  Status Fill(std::byte* to, std::span<const std::byte> element, std::uint64_t count,
              DeviceStream stream) override {
    return Call([&](hora_cuda_error* error) {
      return functions_.fill(to, element.data(), element.size(), count, stream.native, error);
    });
  }

 private:
  template <class Function>
  static Status Call(Function&& function) {
    hora_cuda_error error;  // a text on success is nobody's business
    if (function(&error) == 0) return Status::Ok();
    if (error.lost == 0) return Error(StatusCode::kResource, "CUDA: {}", error.text);
    return Error(StatusCode::kInternal,
                 "CUDA: {}; this process cannot use the device any more, start it again",
                 error.text);
  }

  static Status Of(Status status, std::size_t bytes) {
    return Status(status.code(), fmt::format("{} ({} bytes)", status.message(), bytes));
  }

  const hora_cuda& functions_;
  const std::string description_;
  const int devices_;
};

}  // namespace

Result<std::shared_ptr<DeviceRuntime>> CudaRuntimeOf(const hora_cuda* functions,
                                                     const std::string& where) {
  if (functions == nullptr || functions->abi != HORA_CUDA_ABI) {
    return Fail(Error(StatusCode::kResource,
                      "GPUs cannot be used: {} is of another version of hora; install hora again",
                      where));
  }
  char text[256] = "";
  std::int32_t devices = 0;
  hora_cuda_error error{};
  if (functions->describe(text, sizeof(text), &devices, &error) != 0) {
    return Fail(Error(StatusCode::kResource,
                      "GPUs cannot be used: {} ({}); `nvidia-smi` shows what the driver says",
                      error.text, text));
  }
  if (devices == 0) {
    return Fail(Error(StatusCode::kResource,
                      "GPUs cannot be used: there is none for this process ({}); "
                      "CUDA_VISIBLE_DEVICES may hide them",
                      text));
  }
  return std::make_shared<CudaRuntime>(*functions, text, devices);
}

Result<std::shared_ptr<DeviceRuntime>> OpenCuda(const std::string& directory) {
  const std::filesystem::path path = std::filesystem::path(directory) / "hora_cuda.so";
  std::error_code missing;
  if (!std::filesystem::exists(path, missing)) {
    return Fail(Error(StatusCode::kResource,
                      "GPUs cannot be used: there is no {}: hora was built without nvcc; install "
                      "CUDA's toolkit 12.8 or newer and then hora again",
                      path.string()));
  }
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return Fail(Error(StatusCode::kResource, "GPUs cannot be used: {}", dlerror()));
  }
  using Get = const hora_cuda* (*)();
  const auto get = reinterpret_cast<Get>(dlsym(library, "hora_cuda_get"));
  return CudaRuntimeOf(get == nullptr ? nullptr : get(), path.string());
}

}  // namespace hora

// hora_cuda.so without CUDA: the functions that the core looks for, over simulated devices. There
// are SIMULATED_DEVICES of them (default 1); processes with the same SIMULATED_BOARD share them. A
// test holds and releases streams by functions of its own.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "hora/cuda/cuda_abi.h"
#include "simulated_device/simulated_device.h"

namespace hora {
namespace {

SimulatedDevice& Devices() {
  static auto* devices = [] {  // never destroyed: streams may outlive it
    const char* count = std::getenv("SIMULATED_DEVICES");
    return new SimulatedDevice(count == nullptr ? 1 : std::atoi(count));
  }();
  return *devices;
}

int Answer(const Status& status, hora_cuda_error* error) {
  if (status.ok()) return 0;
  std::snprintf(error->text, sizeof(error->text), "%s", status.message().c_str());
  error->lost = status.code() == StatusCode::kInternal ? 1 : 0;
  return 1;
}

template <class Value, class Put>
int Answer(const Result<Value>& result, hora_cuda_error* error, Put put) {
  if (!result) return Answer(result.error(), error);
  put(*result);
  return 0;
}

int Describe(char* text, std::size_t bytes, std::int32_t* devices, hora_cuda_error*) {
  std::snprintf(text, bytes, "%s", Devices().description().c_str());
  *devices = Devices().device_count();
  return 0;
}

int Facts(std::int32_t device, hora_cuda_facts* facts, hora_cuda_error* error) {
  return Answer(Devices().Facts(device), error, [&](const DeviceFacts& found) {
    std::snprintf(facts->name, sizeof(facts->name), "%s", found.name.c_str());
    const char* board = std::getenv("SIMULATED_BOARD");
    std::snprintf(facts->uuid, sizeof(facts->uuid), "%s%s", found.uuid.c_str(),
                  board == nullptr ? "" : board);
    facts->compute_major = found.compute_major;
    facts->compute_minor = found.compute_minor;
    facts->memory_bytes = found.memory_bytes;
  });
}

int MakeCurrent(std::int32_t device, hora_cuda_error* error) {
  return Answer(Devices().MakeCurrent(device), error);
}

int Current(std::int32_t* device, hora_cuda_error* error) {
  return Answer(Devices().Current(), error, [&](int current) { *device = current; });
}

int CreateStream(std::int32_t device, std::int32_t urgent, void** stream, hora_cuda_error* error) {
  return Answer(Devices().CreateStream(device, urgent != 0), error,
                [&](DeviceStream created) { *stream = created.native; });
}
void DestroyStream(void* stream) { Devices().Destroy(DeviceStream{stream}); }

int CreateEvent(std::int32_t device, void** event, hora_cuda_error* error) {
  return Answer(Devices().CreateEvent(device), error,
                [&](DeviceEvent created) { *event = created.native; });
}
void DestroyEvent(void* event) { Devices().Destroy(DeviceEvent{event}); }

int Record(void* event, void* stream, hora_cuda_error* error) {
  return Answer(Devices().Record(DeviceEvent{event}, DeviceStream{stream}), error);
}
int Wait(void* stream, void* event, hora_cuda_error* error) {
  return Answer(Devices().Wait(DeviceStream{stream}, DeviceEvent{event}), error);
}
int IsCapturing(void* stream, std::int32_t* capturing, hora_cuda_error* error) {
  return Answer(Devices().IsCapturing(DeviceStream{stream}), error,
                [&](bool answer) { *capturing = answer ? 1 : 0; });
}
void ExchangeCaptureMode(std::int32_t* mode) {
  *mode = static_cast<std::int32_t>(Devices().ExchangeCaptureMode(static_cast<CaptureMode>(*mode)));
}
int IsDone(void* event, std::int32_t* done, hora_cuda_error* error) {
  return Answer(Devices().IsDone(DeviceEvent{event}), error,
                [&](bool answer) { *done = answer ? 1 : 0; });
}

int AllocateDevice(std::int32_t device, std::size_t bytes, void** memory, hora_cuda_error* error) {
  return Answer(Devices().AllocateDevice(device, bytes), error,
                [&](std::byte* found) { *memory = found; });
}
void FreeDevice(void* memory) { Devices().FreeDevice(static_cast<std::byte*>(memory)); }

int AllocatePinned(std::size_t bytes, void** memory, hora_cuda_error* error) {
  return Answer(Devices().AllocatePinned(bytes), error, [&](std::byte* found) { *memory = found; });
}
void FreePinned(void* memory) { Devices().FreePinned(static_cast<std::byte*>(memory)); }

int Copy(void* to, const void* from, std::size_t bytes, void* stream, hora_cuda_error* error) {
  return Answer(Devices().Copy(static_cast<std::byte*>(to), static_cast<const std::byte*>(from),
                               bytes, DeviceStream{stream}),
                error);
}

int CopyMany(const hora_cuda_piece* pieces, std::size_t count, const hora_cuda_element* element,
             void* stream, hora_cuda_error* error) {
  const ElementCopy what{.from = static_cast<DType>(element->from),
                         .to = static_cast<DType>(element->to),
                         .scale = element->scale,
                         .divisor = element->divisor};
  const std::span list(reinterpret_cast<const PieceCopy*>(pieces), count);
  return Answer(Devices().CopyMany(list, what, DeviceStream{stream}), error);
}

int Fill(void* to, const void* element, std::size_t element_bytes, std::uint64_t count,
         void* stream, hora_cuda_error* error) {
  const std::span bytes(static_cast<const std::byte*>(element), element_bytes);
  return Answer(Devices().Fill(static_cast<std::byte*>(to), bytes, count, DeviceStream{stream}),
                error);
}

int Quantise(const void*, void*, std::uint64_t, const hora_cuda_blocks*, void*,
             hora_cuda_error* error) {
  return Answer(Status(StatusCode::kResource, "the simulated device quantises nothing"), error);
}

constexpr hora_cuda kTable{.abi = HORA_CUDA_ABI,
                           .describe = &Describe,
                           .facts = &Facts,
                           .make_current = &MakeCurrent,
                           .current = &Current,
                           .create_stream = &CreateStream,
                           .destroy_stream = &DestroyStream,
                           .create_event = &CreateEvent,
                           .destroy_event = &DestroyEvent,
                           .record = &Record,
                           .wait = &Wait,
                           .is_capturing = &IsCapturing,
                           .exchange_capture_mode = &ExchangeCaptureMode,
                           .is_done = &IsDone,
                           .allocate_device = &AllocateDevice,
                           .free_device = &FreeDevice,
                           .allocate_pinned = &AllocatePinned,
                           .free_pinned = &FreePinned,
                           .copy = &Copy,
                           .copy_many = &CopyMany,
                           .fill = &Fill,
                           .quantise = &Quantise,
                           .dequantise = &Quantise};

}  // namespace
}  // namespace hora

#define HORA_EXPORT extern "C" __attribute__((visibility("default")))

HORA_EXPORT const hora_cuda* hora_cuda_get(void) { return &hora::kTable; }

// For ctypes: a stream of device 0 upwards, null where there is none; the stream does nothing while
// it is held; waits until the device is past all that the stream has got, false after ten seconds.
HORA_EXPORT void* simulated_stream(int device) {
  const auto stream = hora::Devices().CreateStream(device, false);
  return stream ? stream->native : nullptr;
}
HORA_EXPORT void simulated_hold(void* stream) { hora::Devices().Hold(hora::DeviceStream{stream}); }
HORA_EXPORT void simulated_release(void* stream) {
  hora::Devices().Release(hora::DeviceStream{stream});
}
HORA_EXPORT bool simulated_synchronize(void* stream, int device) {
  hora::SimulatedDevice& devices = hora::Devices();
  const auto event = devices.CreateEvent(device);
  if (!event || !devices.Record(*event, hora::DeviceStream{stream}).ok()) return false;
  const auto deadline = hora::SteadyClock::Instance().Now() + std::chrono::seconds(10);
  const bool reached = devices.Await(*event, deadline).ok();
  devices.Destroy(*event);
  return reached;
}
// The calling thread's device, -1 where it has none; and choosing it.
HORA_EXPORT int simulated_current(void) { return *hora::Devices().Current(); }
HORA_EXPORT void simulated_make_current(int device) {
  static_cast<void>(hora::Devices().MakeCurrent(device));
}
// Captures what the stream gets; whether that was a valid graph, which is dropped.
HORA_EXPORT void simulated_begin_capture(void* stream) {
  hora::Devices().BeginCapture(hora::DeviceStream{stream});
}
HORA_EXPORT bool simulated_end_capture(void* stream) {
  return hora::Devices().EndCapture(hora::DeviceStream{stream}).has_value();
}
// Pieces of device memory that nobody has freed.
HORA_EXPORT std::size_t simulated_allocations(void) { return hora::Devices().allocated_device(); }
// No piece of more bytes can be had from now on.
HORA_EXPORT void simulated_limit_memory(std::size_t bytes) { hora::Devices().LimitMemory(bytes); }
HORA_EXPORT void simulated_lose_after(int calls) { hora::Devices().LoseAfter(calls); }

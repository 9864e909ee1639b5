// Devices, streams, events and memory: CUDA's runtime as it is, with errors that say what and
// where.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

#include "hora/cuda/plugin/calls.h"
#include "hora/cuda/plugin/current_device.h"

namespace hora {
namespace {

// After these, every call of this process on the device fails.
bool IsLost(cudaError_t code) {
  switch (code) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorContained:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

// While some thread captures a graph, calls that could disturb it are refused to all, and the
// capture fails: allocations, and whatever asks or may wait for the device. Ours have nothing to do
// with it. Calls that put something on a stream, or only make something, are never refused.
class BesideOthersCapture {
 public:
  BesideOthersCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~BesideOthersCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  BesideOthersCapture(const BesideOthersCapture&) = delete;
  BesideOthersCapture& operator=(const BesideOthersCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

int Describe(char* text, std::size_t bytes, std::int32_t* devices, hora_cuda_error* error) {
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  std::snprintf(text, bytes, "CUDA %d.%d, driver %d.%d", runtime / 1000, runtime / 10 % 100,
                driver / 1000, driver / 10 % 100);
  *devices = 0;
  if (driver == 0) return Refuse("there is no NVIDIA driver on this host", error);
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  *devices = count;
  return Answer(code, "count the devices", error);
}

int Facts(std::int32_t device, hora_cuda_facts* facts, hora_cuda_error* error) {
  cudaDeviceProp found{};
  const cudaError_t code = cudaGetDeviceProperties(&found, device);
  if (code != cudaSuccess) return Answer(code, "ask what a device is", error);
  std::snprintf(facts->name, sizeof(facts->name), "%s", found.name);
  std::size_t at = static_cast<std::size_t>(std::snprintf(facts->uuid, sizeof(facts->uuid), "GPU"));
  for (int i = 0; i < 16; ++i) {  // 8-4-4-4-12 digits
    const bool starts_group = i == 0 || i == 4 || i == 6 || i == 8 || i == 10;
    at += static_cast<std::size_t>(
        std::snprintf(facts->uuid + at, sizeof(facts->uuid) - at, starts_group ? "-%02x" : "%02x",
                      static_cast<unsigned>(static_cast<unsigned char>(found.uuid.bytes[i]))));
  }
  facts->compute_major = found.major;
  facts->compute_minor = found.minor;
  facts->memory_bytes = found.totalGlobalMem;
  return 0;
}

int MakeCurrent(std::int32_t device, hora_cuda_error* error) {
  OnDevice::Of(device);  // so that it is known as one that this process uses
  return Answer(cudaSetDevice(device), "make a device current", error);
}

int Current(std::int32_t* device, hora_cuda_error*) {
  *device = OnDevice::Current();
  return 0;
}

// --- Streams and events --------------------------------------------------------------------------

int CreateStream(std::int32_t device, std::int32_t urgent, void** stream, hora_cuda_error* error) {
  const OnDevice on = OnDevice::Of(device);
  auto code = static_cast<cudaError_t>(on.error());
  int least = 0, greatest = 0;
  if (code == cudaSuccess) code = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  cudaStream_t created = nullptr;
  if (code == cudaSuccess) {
    // Default priority is 0, which need not be the least.
    code = cudaStreamCreateWithPriority(&created, cudaStreamNonBlocking, urgent ? greatest : 0);
  }
  *stream = created;
  return Answer(code, "create a stream", error);
}

void DestroyStream(void* stream) {
  if (stream == nullptr) return;
  const OnDevice on = OnDevice::Any();
  const BesideOthersCapture beside;
  cudaStreamDestroy(static_cast<cudaStream_t>(stream));
}

int CreateEvent(std::int32_t device, void** event, hora_cuda_error* error) {
  const OnDevice on = OnDevice::Of(device);
  auto code = static_cast<cudaError_t>(on.error());
  cudaEvent_t created = nullptr;
  if (code == cudaSuccess) code = cudaEventCreateWithFlags(&created, cudaEventDisableTiming);
  *event = created;
  return Answer(code, "create an event", error);
}

void DestroyEvent(void* event) {
  if (event == nullptr) return;
  const OnDevice on = OnDevice::Any();
  cudaEventDestroy(static_cast<cudaEvent_t>(event));
}

int Record(void* event, void* stream, hora_cuda_error* error) {
  const OnDevice on = stream == nullptr ? OnDevice::OfStream(stream) : OnDevice::Any();
  return Answer(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)),
                "record an event", error);
}

int Wait(void* stream, void* event, hora_cuda_error* error) {
  const OnDevice on = stream == nullptr ? OnDevice::OfStream(stream) : OnDevice::Any();
  return Answer(
      cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0),
      "let a stream wait for an event", error);
}

int IsCapturing(void* stream, std::int32_t* capturing, hora_cuda_error* error) {
  *capturing = 0;
  // CUDA captures no default stream, and while others capture, the question alone is an error.
  if (stream == nullptr || stream == cudaStreamLegacy) return 0;
  const OnDevice on = OnDevice::Any();
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t code = cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status);
  *capturing = status != cudaStreamCaptureStatusNone;
  return Answer(code, "ask whether a stream is captured", error);
}

void ExchangeCaptureMode(std::int32_t* mode) {
  const OnDevice on = OnDevice::Any();
  auto exchanged = static_cast<cudaStreamCaptureMode>(*mode);
  cudaThreadExchangeStreamCaptureMode(&exchanged);
  *mode = static_cast<std::int32_t>(exchanged);
}

int IsDone(void* event, std::int32_t* done, hora_cuda_error* error) {
  const OnDevice on = OnDevice::Any();
  const BesideOthersCapture beside;
  const cudaError_t code = cudaEventQuery(static_cast<cudaEvent_t>(event));
  *done = code == cudaSuccess;
  if (code == cudaErrorNotReady) return 0;
  return Answer(code, "ask whether an event has come", error);
}

// --- Memory --------------------------------------------------------------------------------------

int AllocateDevice(std::int32_t device, std::size_t bytes, void** memory, hora_cuda_error* error) {
  const OnDevice on = OnDevice::Of(device);
  const BesideOthersCapture beside;
  auto code = static_cast<cudaError_t>(on.error());
  *memory = nullptr;
  if (code == cudaSuccess) code = cudaMalloc(memory, bytes);
  return Answer(code, "allocate memory of the device", error);
}

void FreeDevice(void* memory) {
  const OnDevice on = OnDevice::Any();
  const BesideOthersCapture beside;
  cudaFree(memory);
}

int AllocatePinned(std::size_t bytes, void** memory, hora_cuda_error* error) {
  const OnDevice on = OnDevice::Any();
  const BesideOthersCapture beside;
  *memory = nullptr;
  return Answer(cudaHostAlloc(memory, bytes, cudaHostAllocPortable), "pin memory of the host",
                error);
}

void FreePinned(void* memory) {
  const OnDevice on = OnDevice::Any();
  const BesideOthersCapture beside;
  cudaFreeHost(memory);
}

int Copy(void* to, const void* from, std::size_t bytes, void* stream, hora_cuda_error* error) {
  const OnDevice on = OnDevice::OfStream(stream);
  return Answer(
      cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)),
      "copy", error);
}

constexpr hora_cuda kTable{
    .abi = HORA_CUDA_ABI,
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
    .dequantise = &Dequantise,
};

}  // namespace

int Answer(int code, const char* what, hora_cuda_error* error) {
  const auto answer = static_cast<cudaError_t>(code);
  if (answer == cudaSuccess) return 0;
  int device = -1;
  if (cudaGetDevice(&device) != cudaSuccess) device = -1;
  char where[32] = "";
  if (device >= 0) std::snprintf(where, sizeof(where), " (device %d)", device);
  std::snprintf(error->text, sizeof(error->text), "%s: %s: %s%s", what, cudaGetErrorName(answer),
                cudaGetErrorString(answer), where);
  error->lost = IsLost(answer);
  return code;
}

int Refuse(const char* why, hora_cuda_error* error) {
  std::snprintf(error->text, sizeof(error->text), "%s", why);
  error->lost = 0;
  return cudaErrorInvalidValue;
}

}  // namespace hora

extern "C" __attribute__((visibility("default"))) const hora_cuda* hora_cuda_get(void) {
  return &hora::kTable;
}

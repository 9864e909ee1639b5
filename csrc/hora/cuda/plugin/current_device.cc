#include "hora/cuda/plugin/current_device.h"

#include <cuda_runtime_api.h>

#include <atomic>

namespace hora {
namespace {

// Of the driver: the runtime cannot say that a thread has no context, nor give one back without
// making it.
struct Contexts {
  int (*current)(void**) = nullptr;
  int (*make_current)(void*) = nullptr;

  Contexts() {
    Find("cuCtxGetCurrent", reinterpret_cast<void**>(&current));
    Find("cuCtxSetCurrent", reinterpret_cast<void**>(&make_current));
  }

 private:
  static void Find(const char* name, void** function) {
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t code =
        cudaGetDriverEntryPointByVersion(name, function, 12000, cudaEnableDefault, &found);
    if (code != cudaSuccess || found != cudaDriverEntryPointSuccess) *function = nullptr;
  }
};

const Contexts& DriverContexts() {
  static const Contexts contexts;
  return contexts;
}

void* CurrentContext() {
  void* context = nullptr;
  const Contexts& contexts = DriverContexts();
  if (contexts.current == nullptr || contexts.current(&context) != 0) return nullptr;
  return context;
}

std::atomic<int> usual_device{-1};  // the first one that was asked for

}  // namespace

OnDevice::OnDevice(int device, void* stream) {
  if (device >= 0) {
    int none = -1;
    usual_device.compare_exchange_strong(none, device);
    Choose(device);
    return;
  }
  if (CurrentContext() == nullptr) {
    const int usual = usual_device.load();
    if (usual >= 0) error_ = cudaSetDevice(usual);
  }
  // Only now: to ask for a stream's device is a call as well.
  if (stream != nullptr &&
      cudaStreamGetDevice(static_cast<cudaStream_t>(stream), &device) == cudaSuccess) {
    Choose(device);
  }
}

int OnDevice::Usual() { return usual_device.load(); }

int OnDevice::Current() {
  int device = -1;
  return CurrentContext() != nullptr && cudaGetDevice(&device) == cudaSuccess ? device : -1;
}

void OnDevice::Choose(int device) {
  void* const context = CurrentContext();
  if (Current() == device) return;
  error_ = cudaSetDevice(device);
  before_ = context;
}

OnDevice::~OnDevice() {
  if (before_ != nullptr) DriverContexts().make_current(before_);
}

}  // namespace hora

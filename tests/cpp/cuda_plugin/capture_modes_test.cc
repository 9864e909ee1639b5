// The plugin's own code over a CUDA of a few lines, which refuses what CUDA refuses while somebody
// captures a graph.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hora/cuda/cuda_abi.h"
#include "hora/cuda/plugin/calls.h"

namespace {

// One device, on which another thread captures a graph in the global mode.
struct FakeCuda {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;  // of the calling thread
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  std::vector<std::string> breaking;  // calls that have broken that capture
  int exchanges = 0;
} cuda;

// What CUDA's documentation calls potentially unsafe.
cudaError_t Unsafe(const char* what) {
  if (cuda.mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  cuda.breaking.push_back(what);
  return cudaErrorStreamCaptureUnsupported;
}

int thing = 0;  // whatever a stream, an event or memory is

}  // namespace

// --- CUDA's runtime, as far as the plugin calls it ---

extern "C" {

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  ++cuda.exchanges;
  std::swap(*mode, cuda.mode);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  if (stream == nullptr || stream == cudaStreamLegacy) return cudaErrorStreamCaptureImplicit;
  *status = cuda.capture;
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) { return Unsafe("cudaEventQuery"); }
cudaError_t cudaMalloc(void** memory, size_t) {
  *memory = &thing;
  return Unsafe("cudaMalloc");
}
cudaError_t cudaFree(void*) { return Unsafe("cudaFree"); }
cudaError_t cudaHostAlloc(void** memory, size_t, unsigned) {
  *memory = &thing;
  return Unsafe("cudaHostAlloc");
}
cudaError_t cudaFreeHost(void*) { return Unsafe("cudaFreeHost"); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return Unsafe("cudaStreamDestroy"); }

cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int) { return cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = *greatest = 0, cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  return *stream = reinterpret_cast<cudaStream_t>(&thing), cudaSuccess;
}
cudaError_t cudaStreamGetDevice(cudaStream_t, int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = reinterpret_cast<cudaEvent_t>(&thing), cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t) {
  return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorFake"; }
const char* cudaGetErrorString(cudaError_t) { return "it is fake"; }
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned,
                                             unsigned long long, cudaDriverEntryPointQueryResult*) {
  return *function = nullptr, cudaErrorNotSupported;
}

}  // extern "C"

namespace hora {

// --- the plugin's kernels, which need nvcc ---

int CopyMany(const hora_cuda_piece*, std::size_t, const hora_cuda_element*, void*,
             hora_cuda_error*) {
  return 0;
}
int Fill(void*, const void*, std::size_t, std::uint64_t, void*, hora_cuda_error*) { return 0; }
int Quantise(const void*, void*, std::uint64_t, const hora_cuda_blocks*, void*, hora_cuda_error*) {
  return 0;
}
int Dequantise(const void*, void*, std::uint64_t, const hora_cuda_blocks*, void*,
               hora_cuda_error*) {
  return 0;
}

namespace {

class CaptureModes : public testing::Test {
 protected:
  void SetUp() override { cuda = {}; }

  const hora_cuda& plugin_ = *hora_cuda_get();
  hora_cuda_error error_{};
};

TEST_F(CaptureModes, NothingThatOthersCaptureIsBroken) {
  void *stream = nullptr, *event = nullptr, *memory = nullptr, *pinned = nullptr;
  std::int32_t answer = 0;
  char text[64];
  hora_cuda_facts facts{};
  EXPECT_EQ(plugin_.describe(text, sizeof(text), &answer, &error_), 0);
  EXPECT_EQ(plugin_.facts(0, &facts, &error_), 0);
  EXPECT_EQ(plugin_.make_current(0, &error_), 0);
  EXPECT_EQ(plugin_.create_stream(0, 1, &stream, &error_), 0);
  EXPECT_EQ(plugin_.create_event(0, &event, &error_), 0);
  EXPECT_EQ(plugin_.record(event, stream, &error_), 0);
  EXPECT_EQ(plugin_.wait(stream, event, &error_), 0);
  EXPECT_EQ(plugin_.is_capturing(stream, &answer, &error_), 0);
  EXPECT_EQ(plugin_.is_done(event, &answer, &error_), 0) << error_.text;
  EXPECT_EQ(answer, 1);
  EXPECT_EQ(plugin_.allocate_device(0, 1, &memory, &error_), 0) << error_.text;
  EXPECT_EQ(plugin_.allocate_pinned(1, &pinned, &error_), 0) << error_.text;
  EXPECT_EQ(plugin_.copy(memory, pinned, 1, stream, &error_), 0);
  plugin_.free_pinned(pinned);
  plugin_.free_device(memory);
  plugin_.destroy_event(event);
  plugin_.destroy_stream(stream);
  EXPECT_EQ(cuda.breaking, std::vector<std::string>{});
  EXPECT_EQ(cuda.mode, cudaStreamCaptureModeGlobal) << "the thread is as it was";
}

TEST_F(CaptureModes, WhatOnlyPutsSomethingOnAStreamChangesNoMode) {
  plugin_.record(&thing, &thing, &error_);
  plugin_.wait(&thing, &thing, &error_);
  plugin_.copy(&thing, &thing, 1, &thing, &error_);
  EXPECT_EQ(cuda.exchanges, 0);
}

TEST_F(CaptureModes, AModeIsExchangedForOtherLibraries) {
  auto mode = static_cast<std::int32_t>(cudaStreamCaptureModeRelaxed);
  plugin_.exchange_capture_mode(&mode);
  EXPECT_EQ(mode, cudaStreamCaptureModeGlobal);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess) << "a library's own call";
  plugin_.exchange_capture_mode(&mode);
  EXPECT_EQ(mode, cudaStreamCaptureModeRelaxed);
  EXPECT_EQ(cudaFree(nullptr), cudaErrorStreamCaptureUnsupported);
}

TEST_F(CaptureModes, AStreamIsCapturedUntilItsCaptureHasEnded) {
  for (const auto& [status, captured] : {std::pair{cudaStreamCaptureStatusNone, 0},
                                         {cudaStreamCaptureStatusActive, 1},
                                         {cudaStreamCaptureStatusInvalidated, 1}}) {
    cuda.capture = status;
    std::int32_t answer = -1;
    EXPECT_EQ(plugin_.is_capturing(&thing, &answer, &error_), 0);
    EXPECT_EQ(answer, captured);
    for (void* const default_stream :
         {static_cast<void*>(nullptr), static_cast<void*>(cudaStreamLegacy)}) {
      EXPECT_EQ(plugin_.is_capturing(default_stream, &answer, &error_), 0);
      EXPECT_EQ(answer, 0) << "the default stream never is";
    }
  }
}

}  // namespace
}  // namespace hora

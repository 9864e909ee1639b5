// A GPU and a stream for each test; the test is skipped where there is none.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hora/cuda/cuda_runtime.h"
#include "hora/cuda/device_memory.h"

namespace hora {

class GpuTest : public testing::Test {
 protected:
  static constexpr const char* kPlugins = HORA_PLUGINS;

  void SetUp() override {
    const auto opened = OpenCuda(kPlugins);
    if (!opened) GTEST_SKIP() << opened.error().message();
    gpu_ = *opened;
    auto stream = OwnedStream::Create(gpu_, 0, false);
    ASSERT_TRUE(stream) << stream.error().message();
    stream_.emplace(std::move(*stream));
    events_ = std::make_shared<EventPool>(gpu_, 0);
  }

  static TimePoint Soon() { return SteadyClock::Instance().Now() + std::chrono::seconds(30); }

  void Finish() {
    const auto event = events_->Take();
    ASSERT_TRUE(event) << event.error().message();
    Expect(gpu_->Record(**event, stream()));
    Expect(gpu_->Await(**event, Soon()));
  }

  static void Expect(const Status& status) { ASSERT_TRUE(status.ok()) << status.message(); }

  // Memory of the device with `bytes` in it.
  std::byte* Upload(const std::vector<std::byte>& bytes) {
    memory_.push_back(std::make_unique<DeviceBuffer>(gpu_, 0));
    const auto room = memory_.back()->Reserve(bytes.size() + 1);
    if (!room) {
      ADD_FAILURE() << room.error().message();
      return nullptr;
    }
    Expect(gpu_->Copy(room->data(), bytes.data(), bytes.size(), stream()));
    Finish();
    return room->data();
  }

  std::vector<std::byte> Download(const std::byte* from, std::size_t bytes) {
    std::vector<std::byte> result(bytes);
    Expect(gpu_->Copy(result.data(), from, bytes, stream()));
    Finish();
    return result;
  }

  DeviceStream stream() const { return stream_->get(); }

  std::shared_ptr<DeviceRuntime> gpu_;
  std::optional<OwnedStream> stream_;
  std::shared_ptr<EventPool> events_;
  std::vector<std::unique_ptr<DeviceBuffer>> memory_;
};

// The plugin's functions themselves; OpenCuda has opened it.
inline const hora_cuda* CudaFunctions() {
  const std::string path = std::string(HORA_PLUGINS) + "/hora_cuda.so";
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  using Get = const hora_cuda* (*)();
  const auto get =
      library == nullptr ? nullptr : reinterpret_cast<Get>(dlsym(library, "hora_cuda_get"));
  return get == nullptr ? nullptr : get();
}

}  // namespace hora

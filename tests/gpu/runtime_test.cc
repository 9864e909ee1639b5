#include <cstring>
#include <string>
#include <thread>

#include "gpu/gpu_fixture.h"
#include "hora/cuda/current_device.h"

namespace hora {
namespace {

// Also where there is no GPU, and there first of all.
TEST(CudaPlugin, OpensOrSaysWhatIsMissing) {
  const auto runtime = OpenCuda(HORA_PLUGINS);
  if (runtime) {
    EXPECT_GE((*runtime)->device_count(), 1);
    return;
  }
  EXPECT_EQ(runtime.error().code(), StatusCode::kResource);
  const std::string& message = runtime.error().message();
  EXPECT_TRUE(message.find("no NVIDIA driver") != std::string::npos ||
              message.find("count the devices") != std::string::npos)
      << message;
  EXPECT_NE(message.find("CUDA 1"), std::string::npos) << message;  // the version it was built with
}

TEST(CudaPlugin, HasEveryFunction) {
  const hora_cuda* const functions = CudaFunctions();
  ASSERT_NE(functions, nullptr);
  EXPECT_EQ(functions->abi, HORA_CUDA_ABI);
  const auto* const bytes = reinterpret_cast<const std::byte*>(functions);
  for (std::size_t at = sizeof(void*); at < sizeof(hora_cuda); at += sizeof(void*)) {
    void* function = nullptr;
    std::memcpy(&function, bytes + at, sizeof(function));
    EXPECT_NE(function, nullptr) << "function " << at / sizeof(void*);
  }
}

using GpuRuntimeTest = GpuTest;

TEST_F(GpuRuntimeTest, KnowsItsDevices) {
  for (int device = 0; device < gpu_->device_count(); ++device) {
    const auto facts = gpu_->Facts(device);
    ASSERT_TRUE(facts) << facts.error().message();
    EXPECT_FALSE(facts->name.empty());
    EXPECT_EQ(facts->uuid.size(), std::strlen("GPU-12345678-1234-1234-1234-123456789012"));
    EXPECT_GE(facts->compute_major, 8);
    EXPECT_GT(facts->memory_bytes, 1u << 30);
  }
  const auto none = gpu_->Facts(gpu_->device_count());
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), StatusCode::kResource);
}

TEST_F(GpuRuntimeTest, AStreamWaitsForAnEventOfAnother) {
  auto other = OwnedStream::Create(gpu_, 0, true);
  ASSERT_TRUE(other);
  constexpr std::size_t kBytes = 256u << 20;
  std::byte* const slow = Upload(std::vector<std::byte>(kBytes));
  std::byte* const last = slow + kBytes - 1;
  const auto filled = events_->Take(), copied = events_->Take();
  ASSERT_TRUE(filled && copied);
  const std::byte value{7};
  std::vector<std::byte> seen(1);
  for (int i = 0; i < 20; ++i) Expect(gpu_->Fill(slow, {&value, 1}, kBytes, stream()));
  Expect(gpu_->Record(**filled, stream()));
  Expect(gpu_->Wait(other->get(), **filled));
  Expect(gpu_->Copy(seen.data(), last, 1, other->get()));
  Expect(gpu_->Record(**copied, other->get()));
  Expect(gpu_->Await(**copied, Soon()));
  EXPECT_EQ(seen[0], value);
  EXPECT_TRUE(*gpu_->IsDone(**filled));
}

TEST_F(GpuRuntimeTest, AwaitKeepsItsDeadline) {
  constexpr std::size_t kBytes = 1u << 30;
  std::byte* const memory = Upload(std::vector<std::byte>(kBytes));
  const auto event = events_->Take();
  ASSERT_TRUE(event);
  const std::byte value{1};
  for (int i = 0; i < 50; ++i) Expect(gpu_->Fill(memory, {&value, 1}, kBytes, stream()));
  Expect(gpu_->Record(**event, stream()));
  EXPECT_EQ(gpu_->Await(**event, SteadyClock::Instance().Now()).code(), StatusCode::kTimeout);
  Expect(gpu_->Await(**event, Soon()));
}

TEST_F(GpuRuntimeTest, AThreadNeedsNoCurrentDevice) {
  const int device = gpu_->device_count() - 1;
  std::thread thread([&] {
    auto stream = OwnedStream::Create(gpu_, device, false);
    const auto events = std::make_shared<EventPool>(gpu_, device);
    DeviceBuffer memory(gpu_, device);
    const auto room = memory.Reserve(4096);
    const auto event = events->Take();
    ASSERT_TRUE(stream && room && event);
    const std::byte value{3};
    Expect(gpu_->Fill(room->data(), {&value, 1}, 4096, stream->get()));
    Expect(gpu_->Record(**event, stream->get()));
    Expect(gpu_->Await(**event, Soon()));
  });
  thread.join();
}

TEST_F(GpuRuntimeTest, ADeviceIsCurrentForAScopeOnly) {
  std::thread thread([&] {
    EXPECT_EQ(*gpu_->Current(), -1);  // and asking does not change that
    EXPECT_EQ(*gpu_->Current(), -1);
    const int last = gpu_->device_count() - 1;
    Expect(gpu_->MakeCurrent(last));
    {
      const CurrentDevice first(*gpu_, 0);
      Expect(first.status());
      EXPECT_EQ(*gpu_->Current(), 0);
    }
    EXPECT_EQ(*gpu_->Current(), last);
  });
  thread.join();
}

TEST_F(GpuRuntimeTest, PinnedMemoryIsReadByKernels) {
  const auto pool = std::make_shared<PinnedPool>(gpu_, 1u << 20);
  const auto piece = pool->Take(10'000);
  ASSERT_TRUE(piece);
  std::memset(piece->get(), 0x5A, 10'000);
  std::byte* const to = Upload(std::vector<std::byte>(10'000));
  const PieceCopy copy{piece->get(), to, 10'000};
  Expect(gpu_->CopyMany({&copy, 1}, {.from = DType::kUInt8, .to = DType::kUInt8}, stream()));
  EXPECT_EQ(Download(to, 10'000), std::vector<std::byte>(10'000, std::byte{0x5A}));
}

TEST_F(GpuRuntimeTest, TooMuchMemoryIsAnErrorAndNothingElse) {
  const auto memory = gpu_->AllocateDevice(0, std::size_t{1} << 50);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code(), StatusCode::kResource);
  EXPECT_NE(memory.error().message().find("cudaErrorMemoryAllocation"), std::string::npos);
  Upload(std::vector<std::byte>(100));  // goes on
}

}  // namespace
}  // namespace hora

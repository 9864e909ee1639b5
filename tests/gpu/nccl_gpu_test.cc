// NCCL itself, as far as one GPU goes: a rank by itself that calls it for everything. With the fake
// NCCL of tests/cpp/collectives the same runs without a GPU.
#include <cstdlib>
#include <thread>

#include "collectives/nccl_alone.h"
#include "gpu/gpu_fixture.h"

namespace hora {
namespace {

class NcclGpuTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const char* const named = std::getenv("HORA_NCCL_LIBRARY");
    const auto library = NcclLibrary::Open({named == nullptr ? "libnccl.so.2" : named});
    if (!library) GTEST_SKIP() << library.error().message() << "; HORA_NCCL_LIBRARY names a file";
    nccl_ = *library;
  }

  std::shared_ptr<const NcclLibrary> nccl_;
};

TEST_F(NcclGpuTest, DoesAllOfItAlone) { ExpectAllOfNcclAlone(gpu_, nccl_); }

TEST_F(NcclGpuTest, LeavesTheCallersDeviceAsItIs) {
  if (gpu_->device_count() < 2) GTEST_SKIP() << "there is one GPU only";
  std::thread caller([&] {  // a thread of its own: devices are the thread's
    NcclAlone group(gpu_, nccl_);
    ASSERT_TRUE(group.is_there());
    Expect(gpu_->MakeCurrent(1));
    float value = 1;
    const ByteStream stream({std::as_writable_bytes(std::span(&value, 1))});
    CollectiveCall call = AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), 1, stream, stream);
    Expect(group.backend(0).Execute(call));
    EXPECT_EQ(*gpu_->Current(), 1);
  });
  caller.join();
}

}  // namespace
}  // namespace hora

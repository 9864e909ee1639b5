#include "hora/cuda/cuda_runtime.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "hora/cuda/current_device.h"

namespace hora {
namespace {

// Functions like those of hora_cuda.so, which do what a test tells them.
struct Answers {
  int code = 0;
  bool lost = false;
  std::int32_t devices = 2;
  int polls_until_done = 0;
  std::int32_t current = -1;
  int switches = 0;
  hora_cuda_element element{};
  std::uint64_t elements = 0;
} answers;

int Answer(hora_cuda_error* error) {
  if (answers.code == 0) return 0;
  std::snprintf(error->text, sizeof(error->text), "copy: cudaErrorFake: it is fake (device 1)");
  error->lost = answers.lost ? 1 : 0;
  return answers.code;
}

hora_cuda Functions() {
  hora_cuda table{};
  table.abi = HORA_CUDA_ABI;
  table.describe = [](char* text, std::size_t bytes, std::int32_t* devices,
                      hora_cuda_error* error) {
    std::snprintf(text, bytes, "CUDA 13.0, driver 0.0");
    *devices = answers.devices;
    return Answer(error);
  };
  table.facts = [](std::int32_t device, hora_cuda_facts* facts, hora_cuda_error* error) {
    std::snprintf(facts->name, sizeof(facts->name), "fake %d", device);
    facts->compute_major = 9;
    return Answer(error);
  };
  table.make_current = [](std::int32_t device, hora_cuda_error* error) {
    if (answers.code == 0) answers.current = device;
    ++answers.switches;
    return Answer(error);
  };
  table.current = [](std::int32_t* device, hora_cuda_error* error) {
    *device = answers.current;
    return Answer(error);
  };
  table.is_done = [](void*, std::int32_t* done, hora_cuda_error* error) {
    *done = answers.polls_until_done-- <= 0 ? 1 : 0;
    return Answer(error);
  };
  table.allocate_device = [](std::int32_t, std::size_t, void**, hora_cuda_error* error) {
    return Answer(error);
  };
  table.copy_many = [](const hora_cuda_piece* pieces, std::size_t count,
                       const hora_cuda_element* element, void*, hora_cuda_error* error) {
    answers.element = *element;
    for (std::size_t i = 0; i < count; ++i) answers.elements += pieces[i].elements;
    return Answer(error);
  };
  return table;
}

class CudaRuntimeTest : public testing::Test {
 protected:
  void SetUp() override {
    answers = {};
    table_ = Functions();
  }

  hora_cuda table_{};
};

TEST_F(CudaRuntimeTest, SaysThatThePluginIsMissing) {
  const auto runtime = OpenCuda("/nowhere/at/all");
  ASSERT_FALSE(runtime);
  EXPECT_EQ(runtime.error().code(), StatusCode::kResource);
  EXPECT_NE(runtime.error().message().find("/nowhere/at/all/hora_cuda.so"), std::string::npos);
  EXPECT_NE(runtime.error().message().find("built without nvcc"), std::string::npos);
}

TEST_F(CudaRuntimeTest, SaysWhyAFileIsNoPlugin) {
  const auto directory = std::filesystem::path(testing::TempDir()) / "no_plugin";
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "hora_cuda.so") << "no library at all";
  const auto runtime = OpenCuda(directory.string());
  ASSERT_FALSE(runtime);
  EXPECT_EQ(runtime.error().code(), StatusCode::kResource);
  EXPECT_NE(runtime.error().message().find("hora_cuda.so"), std::string::npos);
}

TEST_F(CudaRuntimeTest, RefusesAnotherVersion) {
  table_.abi = HORA_CUDA_ABI + 1;
  for (const hora_cuda* table :
       {static_cast<const hora_cuda*>(&table_), static_cast<const hora_cuda*>(nullptr)}) {
    const auto runtime = CudaRuntimeOf(table, "a file");
    ASSERT_FALSE(runtime);
    EXPECT_NE(runtime.error().message().find("a file is of another version"), std::string::npos);
  }
}

TEST_F(CudaRuntimeTest, SaysWhatTheDriverSays) {
  answers.code = 35;
  const auto runtime = CudaRuntimeOf(&table_, "a file");
  ASSERT_FALSE(runtime);
  EXPECT_EQ(runtime.error().code(), StatusCode::kResource);
  EXPECT_NE(runtime.error().message().find("it is fake"), std::string::npos);
  EXPECT_NE(runtime.error().message().find("CUDA 13.0, driver 0.0"), std::string::npos);
}

TEST_F(CudaRuntimeTest, SaysThatThereIsNoDevice) {
  answers.devices = 0;
  const auto runtime = CudaRuntimeOf(&table_, "a file");
  ASSERT_FALSE(runtime);
  EXPECT_NE(runtime.error().message().find("CUDA_VISIBLE_DEVICES"), std::string::npos);
}

TEST_F(CudaRuntimeTest, ADeviceIsCurrentForAScopeOnly) {
  const auto runtime = CudaRuntimeOf(&table_, "a file");
  ASSERT_TRUE(runtime);
  answers.current = 0;
  {
    const CurrentDevice other(**runtime, 1);
    EXPECT_TRUE(other.status().ok());
    EXPECT_EQ(answers.current, 1);
    const CurrentDevice same(**runtime, 1);
    EXPECT_EQ(answers.switches, 1);  // it is current already
  }
  EXPECT_EQ(answers.current, 0);
  EXPECT_EQ(answers.switches, 2);
  answers.current = -1;
  { const CurrentDevice first(**runtime, 1); }
  EXPECT_EQ(answers.current, 1);  // there is none to go back to
  answers.code = 100;
  const CurrentDevice refused(**runtime, 0);
  EXPECT_NE(refused.status().message().find("it is fake"), std::string::npos);
}

TEST_F(CudaRuntimeTest, HandsOnWhatItIsTold) {
  const auto runtime = CudaRuntimeOf(&table_, "a file");
  ASSERT_TRUE(runtime);
  EXPECT_EQ((*runtime)->description(), "CUDA 13.0, driver 0.0");
  EXPECT_EQ((*runtime)->device_count(), 2);
  EXPECT_EQ((*runtime)->Facts(1)->name, "fake 1");
  const PieceCopy pieces[] = {{nullptr, nullptr, 3}, {nullptr, nullptr, 4}};
  const ElementCopy element{
      .from = DType::kBFloat16, .to = DType::kFloat32, .scale = 0.5, .divisor = 3};
  EXPECT_TRUE((*runtime)->CopyMany(pieces, element, {}).ok());
  EXPECT_EQ(answers.elements, 7u);
  EXPECT_EQ(answers.element.from, static_cast<std::uint8_t>(DType::kBFloat16));
  EXPECT_EQ(answers.element.to, static_cast<std::uint8_t>(DType::kFloat32));
  EXPECT_EQ(answers.element.scale, 0.5);
  EXPECT_EQ(answers.element.divisor, 3);
}

TEST_F(CudaRuntimeTest, ErrorsAreOfTheDeviceOrOfTheCall) {
  const auto runtime = CudaRuntimeOf(&table_, "a file");
  ASSERT_TRUE(runtime);
  answers.code = 2;
  const auto memory = (*runtime)->AllocateDevice(0, 12345);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code(), StatusCode::kResource);
  EXPECT_NE(memory.error().message().find("12345 bytes"), std::string::npos);
  answers.lost = true;
  const Status status = (*runtime)->CopyMany({}, {}, {});
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_NE(status.message().find("(device 1)"), std::string::npos);
}

TEST_F(CudaRuntimeTest, AwaitsAnEventUntilTheDeadline) {
  const auto runtime = CudaRuntimeOf(&table_, "a file");
  ASSERT_TRUE(runtime);
  const TimePoint now = SteadyClock::Instance().Now();
  answers.polls_until_done = 50;
  EXPECT_TRUE((*runtime)->Await({}, now + std::chrono::seconds(60)).ok());
  answers.polls_until_done = 1'000'000'000;
  EXPECT_EQ((*runtime)->Await({}, now).code(), StatusCode::kTimeout);
  answers.code = 700;
  answers.lost = true;
  EXPECT_EQ((*runtime)->Await({}, now + std::chrono::seconds(60)).code(), StatusCode::kInternal);
}

}  // namespace
}  // namespace hora

#include "hora/queue/handle.h"

#include <gtest/gtest.h>

#include <array>

#include "hora/base/check.h"

namespace hora {
namespace {

TEST(Handle, CompletesOnceWithWhatThereIs) {
  Handle handle("x");
  EXPECT_FALSE(handle.done());
  const auto gathered =
      std::make_shared<Gathered>(std::vector<std::int64_t>{1, 3}, 16, /*memory=*/nullptr);
  const auto event = std::make_shared<const DeviceEvent>();
  handle.Complete(Status::Ok(), {.gathered = {gathered}, .last_joined = 2, .on_device = event});
  EXPECT_TRUE(handle.done());
  EXPECT_EQ(handle.gathered().at(0), gathered);
  EXPECT_EQ(handle.last_joined(), 2);
  EXPECT_EQ(handle.outcome().on_device, event);
  EXPECT_THROW(handle.Complete(Status::Ok()), InvariantError);
}

TEST(Gathered, IsOnTheHostOrOnADevice) {
  const Gathered on_host({1, 1}, 32, nullptr);
  EXPECT_EQ(on_host.bytes().size(), 32u);
  EXPECT_EQ(on_host.device(), Device{});
  EXPECT_EQ(on_host.on_device(), nullptr);

  std::array<std::byte, 64> memory{};
  const std::shared_ptr<std::byte> shared(std::shared_ptr<void>(), memory.data());
  const Gathered on_device({2}, 48, {DeviceType::kCuda, 1}, shared);
  EXPECT_EQ(on_device.bytes().data(), memory.data());
  EXPECT_EQ(on_device.bytes().size(), 48u);
  EXPECT_EQ(on_device.device().ToString(), "cuda:1");
  EXPECT_EQ(on_device.on_device(), shared);
}

}  // namespace
}  // namespace hora

#include "hora/cuda/device_memory.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "simulated_device/simulated_device.h"

namespace hora {
namespace {

using std::chrono::seconds;

class DeviceMemoryTest : public testing::Test {
 protected:
  static TimePoint Soon() { return SteadyClock::Instance().Now() + seconds(30); }

  std::shared_ptr<SimulatedDevice> device_ = std::make_shared<SimulatedDevice>(2);
};

TEST_F(DeviceMemoryTest, StreamsMoveAndAreDestroyedOnce) {
  Result<OwnedStream> first = OwnedStream::Create(device_, 0, true);
  Result<OwnedStream> second = OwnedStream::Create(device_, 0, false);
  ASSERT_TRUE(first && second);
  const DeviceStream native = first->get();
  OwnedStream moved = std::move(*first);
  EXPECT_EQ(moved.get(), native);
  EXPECT_EQ(first->get(), DeviceStream{});  // NOLINT: what is left is what is looked at
  moved = std::move(*second);
  EXPECT_NE(moved.get(), native);
}

TEST_F(DeviceMemoryTest, NoStreamOnAStrangeDevice) {
  const Result<OwnedStream> stream = OwnedStream::Create(device_, 2, false);
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().code(), StatusCode::kInvalidArgument);
}

TEST_F(DeviceMemoryTest, EventsAreUsedAgain) {
  const auto pool = std::make_shared<EventPool>(device_, 1);
  DeviceEvent first;
  {
    const Result<EventPool::Lease> lease = pool->Take();
    ASSERT_TRUE(lease);
    first = **lease;
    const EventPool::Lease copy = *lease;
    const Result<EventPool::Lease> other = pool->Take();
    ASSERT_TRUE(other);
    EXPECT_NE(**other, first);
  }
  std::set<void*> again;
  const Result<EventPool::Lease> a = pool->Take(), b = pool->Take(), c = pool->Take();
  ASSERT_TRUE(a && b && c);
  for (const auto* lease : {&a, &b, &c}) again.insert((**lease)->native);
  EXPECT_EQ(again.size(), 3u);
  EXPECT_TRUE(again.contains(first.native));
}

TEST_F(DeviceMemoryTest, EventsOutliveTheirPool) {
  auto pool = std::make_shared<EventPool>(device_, 0);
  Result<OwnedStream> stream = OwnedStream::Create(device_, 0, false);
  EventPool::Lease lease = pool->Take().value();
  ASSERT_TRUE(stream);
  pool.reset();
  EXPECT_TRUE(device_->Record(*lease, stream->get()).ok());
  EXPECT_TRUE(device_->Await(*lease, Soon()).ok());
  lease.reset();
}

TEST_F(DeviceMemoryTest, ALostDeviceGivesNoEvent) {
  const auto pool = std::make_shared<EventPool>(device_, 0);
  device_->LoseAfter(1);
  const Result<EventPool::Lease> lease = pool->Take();
  ASSERT_FALSE(lease);
  EXPECT_EQ(lease.error().code(), StatusCode::kInternal);
}

TEST_F(DeviceMemoryTest, EventsGoRoundBetweenThreads) {
  const auto pool = std::make_shared<EventPool>(device_, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        const Result<EventPool::Lease> one = pool->Take(), two = pool->Take();
        EXPECT_TRUE(one && two && **one != **two);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(DeviceMemoryTest, PinnedMemoryIsKeptBySizeUpToTheLimit) {
  const auto pool = std::make_shared<PinnedPool>(device_, 24u << 10);
  Result<PinnedPool::Piece> small = pool->Take(5000);
  Result<PinnedPool::Piece> large = pool->Take(16u << 10);
  Result<PinnedPool::Piece> huge = pool->Take(1u << 20);
  ASSERT_TRUE(small && large && huge);
  EXPECT_EQ(device_->allocated_pinned(), 3u);
  std::byte* const address = small->get();
  small->reset();
  EXPECT_EQ(pool->kept_bytes(), 8u << 10);
  huge->reset();  // larger than what is kept in all
  EXPECT_EQ(device_->allocated_pinned(), 2u);
  large->reset();  // just fits
  EXPECT_EQ(pool->kept_bytes(), 24u << 10);

  const Result<PinnedPool::Piece> again = pool->Take(8u << 10);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->get(), address);
  EXPECT_EQ(pool->kept_bytes(), 16u << 10);
  EXPECT_EQ(device_->allocated_pinned(), 2u);
}

TEST_F(DeviceMemoryTest, PinnedMemoryOutlivesItsPool) {
  auto pool = std::make_shared<PinnedPool>(device_, 1u << 20);
  {
    const Result<PinnedPool::Piece> piece = pool->Take(1);
    ASSERT_TRUE(piece);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(piece->get()) % 64, 0u);
    pool.reset();
    EXPECT_EQ(device_->allocated_pinned(), 1u);
  }
  EXPECT_EQ(device_->allocated_pinned(), 0u);
}

TEST_F(DeviceMemoryTest, WhatIsKeptMakesRoomWhereMemoryIsShort) {
  const auto pool = std::make_shared<PinnedPool>(device_, 1u << 20);
  pool->Take(4096)->reset();
  EXPECT_EQ(pool->kept_bytes(), 4096u);
  device_->LoseAfter(1);
  EXPECT_FALSE(pool->Take(8192));
  EXPECT_EQ(pool->kept_bytes(), 0u);
  EXPECT_EQ(device_->allocated_pinned(), 0u);
  EXPECT_EQ(pool->Take(SIZE_MAX).error().code(), StatusCode::kResource);
}

TEST_F(DeviceMemoryTest, ABufferGrowsWithoutTakingMemoryAwayFromAStream) {
  {
    DeviceBuffer buffer(device_, 0);
    const Result<std::span<std::byte>> first = buffer.Reserve(1000);
    ASSERT_TRUE(first);
    EXPECT_EQ(first->size(), 1000u);
    EXPECT_EQ(buffer.Reserve(10)->data(), first->data());
    const Result<std::span<std::byte>> second = buffer.Reserve(1001);
    ASSERT_TRUE(second);
    EXPECT_NE(second->data(), first->data());
    EXPECT_EQ(device_->allocated_device(), 2u);  // the first is still there
    EXPECT_EQ(buffer.Reserve(2000)->data(), second->data());
    EXPECT_EQ(device_->allocated_device(), 2u);
    device_->LoseAfter(1);
    EXPECT_FALSE(buffer.Reserve(5000));
    EXPECT_EQ(buffer.Reserve(2000)->data(), second->data());
  }
  EXPECT_EQ(device_->allocated_device(), 0u);
}

TEST_F(DeviceMemoryTest, ABufferMakesDoWithLessAndAsksForRoom) {
  int asked = 0;
  {
    DeviceBuffer buffer(device_, 0, [&] { ++asked; });
    ASSERT_TRUE(buffer.Reserve(1000));
    device_->LimitMemory(1500);
    EXPECT_TRUE(buffer.Reserve(1200));  // and not twice the first
    EXPECT_EQ(asked, 0);
    const auto refused = buffer.Reserve(1501);
    EXPECT_EQ(asked, 1);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), StatusCode::kResource);
    for (const char* part : {"cuda:0", "1501 bytes", "HORA_FUSION_THRESHOLD_BYTES"}) {
      EXPECT_NE(refused.error().message().find(part), std::string::npos) << part;
    }
    EXPECT_EQ(buffer.Reserve(1200)->size(), 1200u);  // all is as before
    device_->LoseAfter(1);
    EXPECT_EQ(buffer.Reserve(5000).error().code(), StatusCode::kInternal);
    EXPECT_EQ(asked, 1);  // a lost device is not short of memory
    device_->LoseAfter(0);
    device_->LimitMemory(SIZE_MAX);
  }
  DeviceBuffer other(device_, 0, [&] { device_->LimitMemory(SIZE_MAX); });
  device_->LimitMemory(10);
  EXPECT_TRUE(other.Reserve(100));
}

}  // namespace
}  // namespace hora

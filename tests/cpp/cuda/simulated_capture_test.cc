// The simulated device captures what a CUDA graph would, and refuses what CUDA refuses.
#include <gtest/gtest.h>

#include <thread>

#include "hora/cuda/beside_capture.h"
#include "hora/cuda/device_memory.h"
#include "simulated_device/simulated_device.h"

namespace hora {
namespace {

class SimulatedCaptureTest : public testing::Test {
 protected:
  OwnedStream NewStream() { return OwnedStream::Create(device_, 0, false).value(); }
  EventPool::Lease NewEvent() { return events_->Take().value(); }
  Status Put(std::byte* to, const std::byte* from, const OwnedStream& stream) {
    return device_->Copy(to, from, 1, stream.get());
  }
  void Await(const OwnedStream& stream) {
    const EventPool::Lease end = NewEvent();
    EXPECT_TRUE(device_->Record(*end, stream.get()).ok());
    EXPECT_TRUE(device_->Await(*end, Soon()).ok());
  }
  static TimePoint Soon() { return SteadyClock::Instance().Now() + std::chrono::seconds(30); }

  const std::shared_ptr<SimulatedDevice> device_ = std::make_shared<SimulatedDevice>();
  const std::shared_ptr<EventPool> events_ = std::make_shared<EventPool>(device_, 0);
  std::byte a_{1}, b_{2}, c_{3};
};

TEST_F(SimulatedCaptureTest, RunsNothingBeforeItIsReplayed) {
  const OwnedStream stream = NewStream(), other = NewStream();
  device_->BeginCapture(stream.get());
  EXPECT_TRUE(Put(&b_, &a_, stream).ok());
  const Result<SimulatedGraph> graph = device_->EndCapture(stream.get());
  ASSERT_TRUE(graph) << graph.error().ToString();
  Await(stream);
  EXPECT_EQ(b_, std::byte{2});
  for (int i = 5; i < 8; ++i) {
    a_ = std::byte(i);
    device_->Replay(*graph, other.get());
    Await(other);
    EXPECT_EQ(b_, std::byte(i));
  }
}

TEST_F(SimulatedCaptureTest, EventsDrawStreamsIn) {
  const OwnedStream stream = NewStream(), side = NewStream();
  const EventPool::Lease begin = NewEvent(), end = NewEvent();
  device_->BeginCapture(stream.get());
  EXPECT_TRUE(Put(&b_, &a_, stream).ok());
  EXPECT_TRUE(device_->Record(*begin, stream.get()).ok());
  EXPECT_TRUE(device_->Wait(side.get(), *begin).ok());
  EXPECT_TRUE(Put(&c_, &b_, side).ok());
  EXPECT_TRUE(device_->Record(*end, side.get()).ok());
  EXPECT_TRUE(device_->Wait(stream.get(), *end).ok());
  const Result<SimulatedGraph> graph = device_->EndCapture(stream.get());
  ASSERT_TRUE(graph) << graph.error().ToString();
  EXPECT_EQ(c_, std::byte{3});
  device_->Replay(*graph, stream.get());
  Await(stream);
  EXPECT_EQ(c_, std::byte{1});
  EXPECT_TRUE(Put(&a_, &b_, side).ok());  // which is free again
  Await(side);
}

TEST_F(SimulatedCaptureTest, FailsWhereNobodyWaitsForAStreamThatWasDrawnIn) {
  const OwnedStream stream = NewStream(), side = NewStream();
  const EventPool::Lease begin = NewEvent();
  device_->BeginCapture(stream.get());
  EXPECT_TRUE(device_->Record(*begin, stream.get()).ok());
  EXPECT_TRUE(device_->Wait(side.get(), *begin).ok());
  EXPECT_TRUE(Put(&c_, &b_, side).ok());
  EXPECT_FALSE(device_->EndCapture(stream.get()));
}

TEST_F(SimulatedCaptureTest, FailsWhereTheHostAsksForItsEvents) {
  const OwnedStream stream = NewStream();
  const EventPool::Lease event = NewEvent();
  for (const bool waits : {true, false}) {
    device_->BeginCapture(stream.get());
    EXPECT_TRUE(device_->Record(*event, stream.get()).ok());
    const Status status = waits ? device_->Await(*event, Soon()) : device_->IsDone(*event).error();
    EXPECT_EQ(status.code(), StatusCode::kResource);
    EXPECT_FALSE(device_->EndCapture(stream.get()));
  }
  EXPECT_FALSE(device_->IsDone(*event)) << "it was recorded in a capture";
  EXPECT_TRUE(device_->Record(*event, stream.get()).ok());
  EXPECT_TRUE(device_->Await(*event, Soon()).ok());
}

TEST_F(SimulatedCaptureTest, FailsWhereItWaitsForWhatIsOutside) {
  const OwnedStream stream = NewStream(), outside = NewStream();
  const EventPool::Lease event = NewEvent();
  device_->BeginCapture(stream.get());
  EXPECT_TRUE(device_->Wait(stream.get(), *event).ok()) << "nobody has recorded it";
  EXPECT_TRUE(device_->Record(*event, outside.get()).ok());
  EXPECT_EQ(device_->Wait(stream.get(), *event).code(), StatusCode::kResource);
  EXPECT_FALSE(device_->EndCapture(stream.get()));
}

TEST_F(SimulatedCaptureTest, KnowsWhoIsCaptured) {
  const OwnedStream stream = NewStream(), side = NewStream();
  const EventPool::Lease event = NewEvent();
  EXPECT_FALSE(*device_->IsCapturing(stream.get()));
  device_->BeginCapture(stream.get());
  EXPECT_TRUE(*device_->IsCapturing(stream.get()));
  EXPECT_FALSE(*device_->IsCapturing(side.get()));
  EXPECT_TRUE(device_->Record(*event, stream.get()).ok());
  EXPECT_TRUE(device_->Wait(side.get(), *event).ok());
  EXPECT_TRUE(*device_->IsCapturing(side.get()));
  EXPECT_TRUE(device_->EndCapture(stream.get()));
  EXPECT_FALSE(*device_->IsCapturing(stream.get()) || *device_->IsCapturing(side.get()));
}

// Whether a library may allocate on a thread in `own` mode while a stream is captured in `theirs`,
// by the same thread or another one; whoever may not has broken the capture.
bool MayAllocate(SimulatedDevice& device, DeviceStream stream, CaptureMode theirs, CaptureMode own,
                 bool on_other_thread) {
  bool may = false;
  const auto allocate = [&] {
    const CaptureMode before = device.ExchangeCaptureMode(own);
    EXPECT_EQ(before, CaptureMode::kGlobal);
    const Result<std::byte*> memory = device.AllocateMinding(0, 1);
    may = memory.has_value();
    if (may) device.FreeDevice(*memory);
    EXPECT_EQ(device.ExchangeCaptureMode(before), own);
  };
  device.BeginCapture(stream, theirs);
  if (on_other_thread) {
    std::jthread(allocate).join();
  } else {
    allocate();
  }
  EXPECT_EQ(device.EndCapture(stream).has_value(), may);
  return may;
}

TEST_F(SimulatedCaptureTest, MindsWhatItsModeSays) {
  using enum CaptureMode;
  const OwnedStream stream = NewStream();
  const auto may = [&](CaptureMode theirs, CaptureMode own, bool on_other_thread) {
    return MayAllocate(*device_, stream.get(), theirs, own, on_other_thread);
  };
  for (const bool on_other_thread : {true, false}) {
    EXPECT_FALSE(may(kGlobal, kGlobal, on_other_thread));
    EXPECT_EQ(may(kGlobal, kThreadLocal, on_other_thread), on_other_thread);
    EXPECT_EQ(may(kThreadLocal, kGlobal, on_other_thread), on_other_thread);
    EXPECT_TRUE(may(kGlobal, kRelaxed, on_other_thread));
    EXPECT_TRUE(may(kRelaxed, kGlobal, on_other_thread));
  }
}

TEST_F(SimulatedCaptureTest, AScopeIsBesideIt) {
  const OwnedStream stream = NewStream();
  device_->BeginCapture(stream.get());
  std::jthread([this] {
    const BesideCapture beside(*device_);
    const Result<std::byte*> memory = device_->AllocateMinding(0, 1);
    ASSERT_TRUE(memory);
    device_->FreeDevice(*memory);
  }).join();
  EXPECT_TRUE(device_->EndCapture(stream.get()));
  EXPECT_EQ(device_->ExchangeCaptureMode(CaptureMode::kGlobal), CaptureMode::kGlobal);
}

}  // namespace
}  // namespace hora

#include "simulated_device/simulated_device.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/kernels/reduce.h"
#include "hora/tensor/half.h"

namespace hora {
namespace {

class Stream {
 public:
  explicit Stream(int device) : device_(device), thread_([this] { Work(); }) {}

  ~Stream() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
      held_ = false;
    }
    changed_.notify_all();
    thread_.join();
  }

  int device() const { return device_; }

  void Put(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex_);
      work_.push_back(std::move(work));
    }
    changed_.notify_all();
  }

  void SetHeld(bool held) {
    {
      const std::lock_guard lock(mutex_);
      held_ = held;
    }
    changed_.notify_all();
  }

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock,
                    [this] { return (!held_ && !work_.empty()) || (ended_ && work_.empty()); });
      if (work_.empty()) return;
      const std::function<void()> next = std::move(work_.front());
      work_.pop_front();
      lock.unlock();
      next();
      lock.lock();
    }
  }

  const int device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;  // mutex_
  bool held_ = false;                       // mutex_
  bool ended_ = false;                      // mutex_
  std::thread thread_;                      // last: uses all of the above
};

// How often it was recorded, and how often a stream has come to that.
class Event {
 public:
  explicit Event(int device) : device_(device) {}

  int device() const { return device_; }

  std::uint64_t Record() {
    const std::lock_guard lock(state_->mutex);
    return ++state_->recorded;
  }

  // What is recorded now, reached later; outlives the event.
  std::function<void()> Reach(std::uint64_t record) const {
    return [state = state_, record] {
      const std::lock_guard lock(state->mutex);
      state->reached = std::max(state->reached, record);
      state->changed.notify_all();
    };
  }
  std::function<void()> Waiter() const {
    std::uint64_t record = 0;
    {
      const std::lock_guard lock(state_->mutex);
      record = state_->recorded;
    }
    return [state = state_, record] {
      std::unique_lock lock(state->mutex);
      state->changed.wait(lock, [&] { return state->reached >= record; });
    };
  }

  bool IsDone() const {
    const std::lock_guard lock(state_->mutex);
    return state_->reached >= state_->recorded;
  }
  bool AwaitUntil(TimePoint deadline) const {
    std::unique_lock lock(state_->mutex);
    return state_->changed.wait_until(lock, deadline,
                                      [&] { return state_->reached >= state_->recorded; });
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t recorded = 0;
    std::uint64_t reached = 0;
  };
  const int device_;
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

Stream& At(DeviceStream stream) {
  Check(stream.native != nullptr, "the simulated device has no default stream");
  return *static_cast<Stream*>(stream.native);
}

Event& At(DeviceEvent event) {
  Check(event.native != nullptr, "an event is needed");
  return *static_cast<Event*>(event.native);
}

double Load(DType dtype, const std::byte* from) {
  const auto as = [&]<class T>(T value) {
    std::memcpy(&value, from, sizeof(value));
    return value;
  };
  switch (dtype) {
    case DType::kFloat16:
      return HalfToFloat(as(std::uint16_t{}));
    case DType::kBFloat16:
      return BFloat16ToFloat(as(std::uint16_t{}));
    case DType::kFloat32:
      return as(0.0F);
    default:
      return as(0.0);
  }
}

void Store(DType dtype, double value, std::byte* to) {
  const auto put = [&](auto bits) { std::memcpy(to, &bits, sizeof(bits)); };
  switch (dtype) {
    case DType::kFloat16:
      return put(FloatToHalf(static_cast<float>(value)));
    case DType::kBFloat16:
      return put(FloatToBFloat16(static_cast<float>(value)));
    case DType::kFloat32:
      return put(static_cast<float>(value));
    default:
      return put(value);
  }
}

void CopyPiece(const PieceCopy& piece, const ElementCopy& element) {
  const std::size_t from_bytes = SizeOf(element.from), to_bytes = SizeOf(element.to);
  if (element.scale == 1.0 && element.divisor == 1 && element.from == element.to) {
    std::memmove(piece.to, piece.from, piece.elements * from_bytes);
    return;
  }
  if (element.from == element.to) {
    const ReduceSpec spec{.dtype = element.from,
                          .op = element.divisor == 1 ? ReduceOp::kSum : ReduceOp::kAverage,
                          .prescale = element.scale,
                          .divisor = element.divisor};
    Reduce(spec, {&piece.from, 1}, {&piece.to, 1}, piece.elements);
    return;
  }
  const bool wide = element.from == DType::kFloat64 || element.to == DType::kFloat64;
  const double factor = element.scale / element.divisor;
  for (std::uint64_t i = 0; i < piece.elements; ++i) {
    const double value = Load(element.from, piece.from + i * from_bytes);
    const double scaled =
        wide ? value * factor : static_cast<float>(value) * static_cast<float>(factor);
    Store(element.to, scaled, piece.to + i * to_bytes);
  }
}

}  // namespace

SimulatedDevice::SimulatedDevice(int devices) : devices_(devices) {}

SimulatedDevice::~SimulatedDevice() {
  Check(alive_ == 0, "streams and events are destroyed first");
}

std::string SimulatedDevice::description() const {
  return fmt::format("simulated, {} device(s)", devices_);
}

Status SimulatedDevice::Call(const char* what, int device) {
  if (device < 0 || device >= devices_) {
    return Error(StatusCode::kInvalidArgument, "{}: there is no device {}, only {}", what, device,
                 devices_);
  }
  const int left = calls_left_.load();
  if (left == 1) return Error(StatusCode::kInternal, "{}: device {} is lost", what, device);
  if (left > 1) --calls_left_;
  return Status::Ok();
}

Result<DeviceFacts> SimulatedDevice::Facts(int device) {
  if (Status status = Call("facts", device); !status.ok()) return Fail(status);
  return DeviceFacts{.name = "simulated device",
                     .uuid = fmt::format("SIM-{}", device),
                     .compute_major = 9,
                     .memory_bytes = 1u << 30};
}

Status SimulatedDevice::MakeCurrent(int device) { return Call("make current", device); }

Result<DeviceStream> SimulatedDevice::CreateStream(int device, bool /*urgent*/) {
  if (Status status = Call("create a stream", device); !status.ok()) return Fail(status);
  ++alive_;
  return DeviceStream{new Stream(device)};
}

void SimulatedDevice::Destroy(DeviceStream stream) noexcept {
  if (stream.native == nullptr) return;
  delete static_cast<Stream*>(stream.native);
  --alive_;
}

Result<DeviceEvent> SimulatedDevice::CreateEvent(int device) {
  if (Status status = Call("create an event", device); !status.ok()) return Fail(status);
  ++alive_;
  return DeviceEvent{new Event(device)};
}

void SimulatedDevice::Destroy(DeviceEvent event) noexcept {
  if (event.native == nullptr) return;
  delete static_cast<Event*>(event.native);
  --alive_;
}

Status SimulatedDevice::Record(DeviceEvent event, DeviceStream stream) {
  if (Status status = Call("record", At(stream).device()); !status.ok()) return status;
  Check(At(event).device() == At(stream).device(), "an event is recorded on its own device");
  At(stream).Put(At(event).Reach(At(event).Record()));
  return Status::Ok();
}

Status SimulatedDevice::Wait(DeviceStream stream, DeviceEvent event) {
  if (Status status = Call("wait", At(stream).device()); !status.ok()) return status;
  At(stream).Put(At(event).Waiter());
  return Status::Ok();
}

Result<bool> SimulatedDevice::IsDone(DeviceEvent event) {
  if (Status status = Call("query", At(event).device()); !status.ok()) return Fail(status);
  return At(event).IsDone();
}

Status SimulatedDevice::Await(DeviceEvent event, TimePoint deadline) {
  if (Status status = Call("await", At(event).device()); !status.ok()) return status;
  if (At(event).AwaitUntil(deadline)) return Status::Ok();
  return Error(StatusCode::kTimeout, "device {} has not come to the event", At(event).device());
}

Result<std::byte*> SimulatedDevice::AllocateDevice(int device, std::size_t bytes) {
  if (Status status = Call("allocate", device); !status.ok()) return Fail(status);
  ++allocated_device_;
  return static_cast<std::byte*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
}

void SimulatedDevice::FreeDevice(std::byte* memory) noexcept {
  if (memory == nullptr) return;
  std::free(memory);
  --allocated_device_;
}

Result<std::byte*> SimulatedDevice::AllocatePinned(std::size_t bytes) {
  if (Status status = Call("pin", 0); !status.ok()) return Fail(status);
  ++allocated_pinned_;
  return static_cast<std::byte*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
}

void SimulatedDevice::FreePinned(std::byte* memory) noexcept {
  if (memory == nullptr) return;
  std::free(memory);
  --allocated_pinned_;
}

Status SimulatedDevice::Copy(std::byte* to, const std::byte* from, std::size_t bytes,
                             DeviceStream stream) {
  if (Status status = Call("copy", At(stream).device()); !status.ok()) return status;
  At(stream).Put([=] { std::memmove(to, from, bytes); });
  return Status::Ok();
}

Status SimulatedDevice::CopyMany(std::span<const PieceCopy> pieces, const ElementCopy& element,
                                 DeviceStream stream) {
  if (Status status = Call("copy", At(stream).device()); !status.ok()) return status;
  ++launches_;
  At(stream).Put([own = std::vector(pieces.begin(), pieces.end()), element] {
    for (const PieceCopy& piece : own) CopyPiece(piece, element);
  });
  return Status::Ok();
}

Status SimulatedDevice::Fill(std::byte* to, std::span<const std::byte> element, std::uint64_t count,
                             DeviceStream stream) {
  if (Status status = Call("fill", At(stream).device()); !status.ok()) return status;
  ++launches_;
  At(stream).Put([=, own = std::vector(element.begin(), element.end())] {
    for (std::uint64_t i = 0; i < count; ++i) {
      std::memcpy(to + i * own.size(), own.data(), own.size());
    }
  });
  return Status::Ok();
}

void SimulatedDevice::Hold(DeviceStream stream) { At(stream).SetHeld(true); }
void SimulatedDevice::Release(DeviceStream stream) { At(stream).SetHeld(false); }

}  // namespace hora

extern "C" void simulated_stream_enqueue(void* stream, void (*work)(void*), void* context) {
  hora::At(hora::DeviceStream{stream}).Put([=] { work(context); });
}

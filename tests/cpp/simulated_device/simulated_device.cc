#include "simulated_device/simulated_device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/kernels/reduce.h"
#include "hora/tensor/half.h"

namespace hora {
namespace {

// As CUDA has them, of all runtimes of this process.
thread_local int current_device = -1;
thread_local CaptureMode capture_mode = CaptureMode::kGlobal;

// For libraries that know of none.
struct Living {
  std::mutex mutex;
  std::set<SimulatedDevice*> devices;  // mutex
};
Living& TheLiving() {
  static auto* const living = new Living;  // never destroyed
  return *living;
}

SimulatedStream& At(DeviceStream stream) {
  Check(stream.native != nullptr, "the simulated device has no default stream");
  return *static_cast<SimulatedStream*>(stream.native);
}

SimulatedEvent& At(DeviceEvent event) {
  Check(event.native != nullptr, "an event is needed");
  return *static_cast<SimulatedEvent*>(event.native);
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

SimulatedDevice::SimulatedDevice(int devices) : devices_(devices) {
  Living& living = TheLiving();
  const std::lock_guard lock(living.mutex);
  living.devices.insert(this);
}

SimulatedDevice::~SimulatedDevice() {
  {
    Living& living = TheLiving();
    const std::lock_guard lock(living.mutex);
    living.devices.erase(this);
  }
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

Status SimulatedDevice::MakeCurrent(int device) {
  Status status = Call("make current", device);
  if (status.ok()) current_device = device;
  return status;
}

Result<int> SimulatedDevice::Current() { return current_device; }

Result<DeviceStream> SimulatedDevice::CreateStream(int device, bool /*urgent*/) {
  if (Status status = Call("create a stream", device); !status.ok()) return Fail(status);
  ++alive_;
  return DeviceStream{new SimulatedStream(device)};
}

void SimulatedDevice::Destroy(DeviceStream stream) noexcept {
  if (stream.native == nullptr) return;
  delete static_cast<SimulatedStream*>(stream.native);
  --alive_;
}

Result<DeviceEvent> SimulatedDevice::CreateEvent(int device) {
  if (Status status = Call("create an event", device); !status.ok()) return Fail(status);
  ++alive_;
  return DeviceEvent{new SimulatedEvent(device)};
}

void SimulatedDevice::Destroy(DeviceEvent event) noexcept {
  if (event.native == nullptr) return;
  delete static_cast<SimulatedEvent*>(event.native);
  --alive_;
}

Status SimulatedDevice::Record(DeviceEvent event, DeviceStream stream) {
  if (Status status = Call("record", At(stream).device()); !status.ok()) return status;
  Check(At(event).device() == At(stream).device(), "an event is recorded on its own device");
  At(event).Record(At(stream));
  return Status::Ok();
}

Status SimulatedDevice::Wait(DeviceStream stream, DeviceEvent event) {
  if (Status status = Call("wait", At(stream).device()); !status.ok()) return status;
  return At(event).LetWait(At(stream));
}

Result<bool> SimulatedDevice::IsCapturing(DeviceStream stream) {
  if (Status status = Call("ask for a capture", At(stream).device()); !status.ok()) {
    return Fail(status);
  }
  return At(stream).capture() != nullptr;
}

CaptureMode SimulatedDevice::ExchangeCaptureMode(CaptureMode mode) noexcept {
  return std::exchange(capture_mode, mode);
}

Result<bool> SimulatedDevice::IsDone(DeviceEvent event) {
  if (Status status = Call("query", At(event).device()); !status.ok()) return Fail(status);
  return At(event).IsDone();
}

Status SimulatedDevice::Await(DeviceEvent event, TimePoint deadline) {
  if (Status status = Call("await", At(event).device()); !status.ok()) return status;
  const Result<bool> reached = At(event).AwaitUntil(deadline);
  if (!reached) return reached.error();
  if (*reached) return Status::Ok();
  return Error(StatusCode::kTimeout, "device {} has not come to the event", At(event).device());
}

Result<std::byte*> SimulatedDevice::AllocateDevice(int device, std::size_t bytes) {
  if (Status status = Call("allocate", device); !status.ok()) return Fail(status);
  if (Status status = MindLimit(device, bytes); !status.ok()) return Fail(status);
  ++allocations_;
  ++allocated_device_;
  return static_cast<std::byte*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
}

void SimulatedDevice::FreeDevice(std::byte* memory) noexcept {
  if (memory == nullptr) return;
  std::free(memory);
  --allocated_device_;
}

Result<std::byte*> SimulatedDevice::AllocateMinding(int device, std::size_t bytes) {
  if (Status status = MindCaptures("allocate"); !status.ok()) return Fail(status);
  return AllocateDevice(device, bytes);
}

Status SimulatedDevice::PermitMinding(std::size_t bytes) {
  if (Status status = MindCaptures("allocate"); !status.ok()) return status;
  return MindLimit(current_device, bytes);
}

Status SimulatedDevice::MindLimit(int device, std::size_t bytes) const {
  const int short_device = short_device_;
  const bool is_short = short_device == -1 || short_device == device;
  if (bytes <= largest_piece_ || !is_short) return Status::Ok();
  return Error(StatusCode::kResource, "allocate: device {} is out of memory", device);
}

Status SimulatedDevice::MindCaptures(const char* what) {
  if (capture_mode == CaptureMode::kRelaxed) return Status::Ok();
  Status status;
  const std::lock_guard lock(captures_mutex_);
  for (const auto& [stream, capture] : captures_) {
    const bool is_own = capture.thread == std::this_thread::get_id();
    const bool minds =
        is_own ? capture.mode != CaptureMode::kRelaxed
               : capture.mode == CaptureMode::kGlobal && capture_mode == CaptureMode::kGlobal;
    if (!minds) continue;
    capture.recorded->Invalidate("somebody allocates or asks while it is under way");
    status = Error(StatusCode::kResource, "{}: not permitted while a stream is captured", what);
  }
  return status;
}

Result<std::byte*> SimulatedDevice::AllocatePinned(std::size_t bytes) {
  if (Status status = Call("pin", 0); !status.ok()) return Fail(status);
  ++allocations_;
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

void SimulatedDevice::BeginCapture(DeviceStream stream, CaptureMode mode) {
  Check(At(stream).capture() == nullptr, "a stream is captured once at a time");
  auto capture = std::make_shared<SimulatedCapture>();
  At(stream).SetCapture(capture);
  const std::lock_guard lock(captures_mutex_);
  captures_[stream.native] = {std::move(capture), mode, std::this_thread::get_id()};
}

Result<SimulatedGraph> SimulatedDevice::EndCapture(DeviceStream stream) {
  CaptureRef capture;
  {
    const std::lock_guard lock(captures_mutex_);
    Check(captures_.contains(stream.native), "the capture began on this stream");
    capture = std::move(captures_.extract(stream.native).mapped().recorded);
  }
  At(stream).SetCapture(nullptr);
  return capture->End(&At(stream));  // and the last reference goes: all other streams leave it
}

void SimulatedDevice::Replay(const SimulatedGraph& graph, DeviceStream stream) {
  At(stream).Put([graph] {
    for (const SimulatedWork& work : *graph) work();
  });
}

}  // namespace hora

extern "C" bool simulated_memory_permits(std::size_t bytes) {
  hora::Living& living = hora::TheLiving();
  const std::lock_guard lock(living.mutex);
  bool permits = true;
  for (hora::SimulatedDevice* const each : living.devices) {
    if (!each->PermitMinding(bytes).ok()) permits = false;
  }
  return permits;
}

extern "C" void simulated_stream_enqueue(void* stream, void (*work)(void*), void (*release)(void*),
                                         void* context) {
  hora::At(hora::DeviceStream{stream}).Put([work, own = std::shared_ptr<void>(context, release)] {
    work(own.get());
  });
}

// A GPU's driver, as far as collectives need one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/base/status.h"
#include "hora/tensor/dtype.h"

namespace hora {

// Things of a runtime, which alone knows what they are (cudaStream_t, cudaEvent_t). Whoever creates
// one destroys it.
struct DeviceStream {
  void* native = nullptr;  // null: the device's default stream
  friend bool operator==(const DeviceStream&, const DeviceStream&) = default;
};
struct DeviceEvent {
  void* native = nullptr;  // null: none
  friend bool operator==(const DeviceEvent&, const DeviceEvent&) = default;
};

// What a thread's calls have to do with streams that are captured into graphs: which captures they
// respect, and break where they may not be made meanwhile (allocating, asking for events).
// As CUDA's; kGlobal where nobody has said anything.
enum class CaptureMode : std::int32_t {
  kGlobal = 0,       // own ones, and those that others have begun so
  kThreadLocal = 1,  // own ones
  kRelaxed = 2       // none
};

struct DeviceFacts {
  std::string name;  // "NVIDIA H200"
  std::string uuid;  // of the device, or of its MIG slice: equal in all processes that share it
  int compute_major = 0, compute_minor = 0;
  std::uint64_t memory_bytes = 0;
};

// One of the copies of a batch: `elements` of them, dense on both sides. `from` may be `to` where
// both types are as large; else no piece overlaps what another one writes. Any alignment; 16 bytes
// at once where both addresses leave the same remainder.
struct PieceCopy {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  std::uint64_t elements = 0;
};

// What happens to each element on its way. Without a cast: what a reduction of one source does with
// this prescale, and with this divisor where it averages (kernels/reduce.h); bytes are copied, of
// any dtype, when both are 1. With one, among float16, bfloat16, float32 and float64:
// cast(from · scale / divisor), computed in fp32, or fp64 where either side is.
struct ElementCopy {
  DType from = DType::kFloat32;
  DType to = DType::kFloat32;
  double scale = 1.0;
  int divisor = 1;
};

// All of one kind of device in this process. Any thread may call anything; streams and events of
// one device may be used together, whatever thread made them. Nothing blocks but Await and what
// allocates; what is put on a stream happens after what is on it already. A failure names the
// device and what the driver says; kInternal where the device is lost. Nothing but what is put on a
// stream has to do with graphs that anybody captures meanwhile.
class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;

  virtual std::string description() const = 0;  // "CUDA 13.0, driver 13.0"
  virtual int device_count() const = 0;
  virtual Result<DeviceFacts> Facts(int device) = 0;
  // Of the calling thread, for libraries that look at it: see CurrentDevice, which gives it back.
  virtual Status MakeCurrent(int device) = 0;
  virtual Result<int> Current() = 0;  // -1: the thread has used none yet

  // `urgent`: before others where the device can.
  virtual Result<DeviceStream> CreateStream(int device, bool urgent) = 0;
  virtual void Destroy(DeviceStream stream) noexcept = 0;  // what is on it is finished
  virtual Result<DeviceEvent> CreateEvent(int device) = 0;
  virtual void Destroy(DeviceEvent event) noexcept = 0;

  virtual Status Record(DeviceEvent event, DeviceStream stream) = 0;
  virtual Status Wait(DeviceStream stream, DeviceEvent event) = 0;  // the stream, not the caller
  // Whether what is put on the stream becomes part of a graph, and does not happen. Nobody can wait
  // for its events then, and it can wait for none from outside.
  virtual Result<bool> IsCapturing(DeviceStream stream) = 0;
  // Of the calling thread, for libraries that are called on it: see BesideCapture. The one before.
  virtual CaptureMode ExchangeCaptureMode(CaptureMode mode) noexcept = 0;
  virtual Result<bool> IsDone(DeviceEvent event) = 0;
  // Blocks the caller: kTimeout at the deadline.
  virtual Status Await(DeviceEvent event, TimePoint deadline) = 0;

  // Pinned: memory of the host that a device reads and writes by itself.
  virtual Result<std::byte*> AllocateDevice(int device, std::size_t bytes) = 0;
  virtual void FreeDevice(std::byte* memory) noexcept = 0;
  virtual Result<std::byte*> AllocatePinned(std::size_t bytes) = 0;
  virtual void FreePinned(std::byte* memory) noexcept = 0;

  // Either side may be of the host; `from` and `to` must live until the stream is past it.
  virtual Status Copy(std::byte* to, const std::byte* from, std::size_t bytes,
                      DeviceStream stream) = 0;
  // Hundreds of pieces per launch; all of device memory (or pinned). `pieces` may go at once.
  virtual Status CopyMany(std::span<const PieceCopy> pieces, const ElementCopy& element,
                          DeviceStream stream) = 0;
  // `count` times `element`, of 1, 2, 4, 8 or 16 bytes.
  virtual Status Fill(std::byte* to, std::span<const std::byte> element, std::uint64_t count,
                      DeviceStream stream) = 0;
};

}  // namespace hora

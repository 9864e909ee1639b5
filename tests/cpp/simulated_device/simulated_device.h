// A device without hardware: its memory is the host's, each stream is a thread that does what was
// put on it, in order.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "hora/cuda/device_runtime.h"
#include "simulated_device/simulated_stream.h"

namespace hora {

// `devices` of them, all on this host's memory. Everything is checked that a driver would refuse:
// streams and events of another device, device memory that was freed. Streams can be held, so that
// a test sees whether anybody waits for what it should.
class SimulatedDevice final : public DeviceRuntime {
 public:
  explicit SimulatedDevice(int devices = 1);
  ~SimulatedDevice() override;  // all streams and events have been destroyed: else it aborts

  std::string description() const override;
  int device_count() const override { return devices_; }
  Result<DeviceFacts> Facts(int device) override;
  Status MakeCurrent(int device) override;
  Result<int> Current() override;

  Result<DeviceStream> CreateStream(int device, bool urgent) override;
  void Destroy(DeviceStream stream) noexcept override;
  Result<DeviceEvent> CreateEvent(int device) override;
  void Destroy(DeviceEvent event) noexcept override;
  Status Record(DeviceEvent event, DeviceStream stream) override;
  Status Wait(DeviceStream stream, DeviceEvent event) override;
  Result<bool> IsCapturing(DeviceStream stream) override;
  CaptureMode ExchangeCaptureMode(CaptureMode mode) noexcept override;
  Result<bool> IsDone(DeviceEvent event) override;
  Status Await(DeviceEvent event, TimePoint deadline) override;

  Result<std::byte*> AllocateDevice(int device, std::size_t bytes) override;
  void FreeDevice(std::byte* memory) noexcept override;
  Result<std::byte*> AllocatePinned(std::size_t bytes) override;
  void FreePinned(std::byte* memory) noexcept override;

  Status Copy(std::byte* to, const std::byte* from, std::size_t bytes,
              DeviceStream stream) override;
  Status CopyMany(std::span<const PieceCopy> pieces, const ElementCopy& element,
                  DeviceStream stream) override;
  Status Fill(std::byte* to, std::span<const std::byte> element, std::uint64_t count,
              DeviceStream stream) override;

  // The stream does nothing of what is put on it from now on, until it is released.
  void Hold(DeviceStream stream);
  void Release(DeviceStream stream);

  // What is put on a captured stream is recorded, and nothing happens, as in a CUDA graph. Events
  // that are recorded there order streams, which they draw into the capture; the host must not ask
  // for them, or the capture fails. `mode`: what else makes it fail meanwhile.
  void BeginCapture(DeviceStream stream, CaptureMode mode = CaptureMode::kGlobal);
  Result<SimulatedGraph> EndCapture(DeviceStream stream);
  void Replay(const SimulatedGraph& graph, DeviceStream stream);

  // As the driver allocates for libraries that do not say that it is beside all captures: refused
  // while somebody's capture minds, which then fails.
  Result<std::byte*> AllocateMinding(int device, std::size_t bytes);
  // The same for a library with memory of its own: on the thread's current device, if it is one of
  // these.
  Status PermitMinding(std::size_t bytes);

  // Every call from the `count`-th on fails as one of a lost device does; 0: none.
  void LoseAfter(int count) { calls_left_ = count; }
  // Larger pieces of its memory cannot be had of this device, or of any with -1.
  void LimitMemory(std::size_t bytes, int device = -1) {
    short_device_ = device;
    largest_piece_ = bytes;
  }

  int launches() const { return launches_; }                          // of CopyMany and Fill
  int allocations() const { return allocations_; }                    // of any memory, so far
  std::size_t allocated_device() const { return allocated_device_; }  // pieces not freed
  std::size_t allocated_pinned() const { return allocated_pinned_; }

 private:
  struct Capture {
    CaptureRef recorded;
    CaptureMode mode;
    std::thread::id thread;
  };

  Status Call(const char* what, int device);
  Status MindCaptures(const char* what);
  Status MindLimit(int device, std::size_t bytes) const;

  const int devices_;
  std::atomic<int> calls_left_{0};
  std::atomic<std::size_t> largest_piece_{SIZE_MAX};
  std::atomic<int> short_device_{-1};
  std::atomic<int> launches_{0};
  std::atomic<int> allocations_{0};
  std::atomic<std::size_t> allocated_device_{0};
  std::atomic<std::size_t> allocated_pinned_{0};
  std::atomic<int> alive_{0};  // streams and events
  std::mutex captures_mutex_;
  std::map<void*, Capture> captures_;  // captures_mutex_; by the stream where they began
};

}  // namespace hora

// For a fake library that allocates by itself: whether all simulated devices let it, which mind
// captures as in AllocateMinding.
extern "C" __attribute__((visibility("default"))) bool simulated_memory_permits(std::size_t bytes);

// For a fake library that is opened at run time: puts `work(context)` on the stream. It is called
// as often as the stream comes to it; `release(context)` once, when it never will again.
extern "C" __attribute__((visibility("default"))) void simulated_stream_enqueue(
    void* stream, void (*work)(void*), void (*release)(void*), void* context);

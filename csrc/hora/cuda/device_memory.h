// Owners of what a DeviceRuntime hands out.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "hora/cuda/device_runtime.h"

namespace hora {

// One stream with the runtime that it is of; movable, any thread.
class OwnedStream {
 public:
  static Result<OwnedStream> Create(std::shared_ptr<DeviceRuntime> runtime, int device,
                                    bool urgent);
  OwnedStream(OwnedStream&& other) noexcept;
  OwnedStream& operator=(OwnedStream&& other) noexcept;
  ~OwnedStream();

  DeviceStream get() const { return stream_; }

 private:
  OwnedStream(std::shared_ptr<DeviceRuntime> runtime, DeviceStream stream)
      : runtime_(std::move(runtime)), stream_(stream) {}
  std::shared_ptr<DeviceRuntime> runtime_;  // null: moved from
  DeviceStream stream_;
};

// Events of one device, used again and again: creating one costs more than recording it. Any
// thread. A lease may outlive the pool's owner.
class EventPool : public std::enable_shared_from_this<EventPool> {
 public:
  EventPool(std::shared_ptr<DeviceRuntime> runtime, int device);
  ~EventPool();  // once all leases are back

  // Null where there was an error. Copies share the event; the last one gives it back.
  using Lease = std::shared_ptr<const DeviceEvent>;
  Result<Lease> Take();

 private:
  const std::shared_ptr<DeviceRuntime> runtime_;
  const int device_;
  std::mutex mutex_;
  std::vector<DeviceEvent> free_;  // mutex_
  std::size_t created_ = 0;        // mutex_
};

// Pinned memory by powers of two, kept up to `kept_bytes` and given out again: pinning costs a
// millisecond per megabyte. Any thread. A piece may outlive the pool's owner. What is kept is let
// go of where memory is short.
class PinnedPool : public std::enable_shared_from_this<PinnedPool> {
 public:
  PinnedPool(std::shared_ptr<DeviceRuntime> runtime, std::size_t kept_bytes);
  ~PinnedPool();

  struct Return {
    std::shared_ptr<PinnedPool> pool;
    std::size_t bytes = 0;
    void operator()(std::byte* memory) const noexcept;
  };
  using Piece = std::unique_ptr<std::byte, Return>;  // 64-byte aligned at least
  Result<Piece> Take(std::size_t bytes);

  std::size_t kept_bytes() const;  // free, not given out

 private:
  void Keep(std::byte* memory, std::size_t bytes) noexcept;
  void DropFree() noexcept;

  const std::shared_ptr<DeviceRuntime> runtime_;
  const std::size_t most_kept_;
  mutable std::mutex mutex_;
  std::multimap<std::size_t, std::byte*> free_;  // mutex_
  std::size_t kept_ = 0;                         // mutex_
};

// Where memory of one device comes from. `free` may be called when all else has gone.
struct DeviceMemorySource {
  std::function<Result<std::byte*>(std::size_t bytes)> allocate;  // kResource: there is too little
  std::function<void(std::byte*)> free;

  static DeviceMemorySource OfRuntime(std::shared_ptr<DeviceRuntime> runtime, int device);
};

// Asks others in this process to give back memory of the device that they keep and do not use: it
// may wait for the device, and fail in silence.
using MakeRoom = std::function<void()>;

// Device memory that grows to what was asked of it and stays; one thread at a time. Nothing waits
// for the device: what was outgrown stays until the end, since freeing it would wait for all
// streams. Sizes double, so that is at most as much again. Where memory is short, it grows to what
// was asked and no further, and `make_room` is called before anything fails; it may be empty.
class DeviceBuffer {
 public:
  DeviceBuffer(DeviceMemorySource source, int device, MakeRoom make_room = {})
      : source_(std::move(source)), device_(device), make_room_(std::move(make_room)) {}
  DeviceBuffer(std::shared_ptr<DeviceRuntime> runtime, int device, MakeRoom make_room = {})
      : DeviceBuffer(DeviceMemorySource::OfRuntime(std::move(runtime), device), device,
                     std::move(make_room)) {}
  ~DeviceBuffer();  // what uses it is finished
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  // `bytes` of it. When it grows it moves, and what was in it stays behind: streams that use the
  // old place go on doing so. kResource says how much was wanted, where, and what takes less; all
  // is as before then.
  Result<std::span<std::byte>> Reserve(std::size_t bytes);
  // All there is of it at the present place: what Reserve gives is the beginning.
  std::span<std::byte> whole() const { return {data_, bytes_}; }

 private:
  Result<std::byte*> Grow(std::size_t wanted, std::size_t& got);

  const DeviceMemorySource source_;
  const int device_;
  const MakeRoom make_room_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::vector<std::byte*> outgrown_;
};

}  // namespace hora

// Owners of what a DeviceRuntime hands out.
#pragma once

#include <cstddef>
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

// Device memory that grows to what was asked of it and stays; one thread at a time. Nothing waits
// for the device: what was outgrown stays until the end, since freeing it would wait for all
// streams. Sizes double, so that is at most as much again.
class DeviceBuffer {
 public:
  DeviceBuffer(std::shared_ptr<DeviceRuntime> runtime, int device)
      : runtime_(std::move(runtime)), device_(device) {}
  ~DeviceBuffer();  // what uses it is finished
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  // `bytes` of it. When it grows it moves, and what was in it stays behind: streams that use the
  // old place go on doing so.
  Result<std::span<std::byte>> Reserve(std::size_t bytes);

 private:
  const std::shared_ptr<DeviceRuntime> runtime_;
  const int device_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::vector<std::byte*> outgrown_;
};

}  // namespace hora

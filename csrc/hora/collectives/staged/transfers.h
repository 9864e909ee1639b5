// Copies between a device and pinned memory, in both directions at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "hora/collectives/staged/staged_backend.h"
#include "hora/cuda/device_memory.h"

namespace hora {

// Pinned memory, and the last that the device was told to do with it.
struct StagingArea {
  PinnedPool::Piece memory;  // null: of no bytes
  EventPool::Lease used;     // null: nothing
};

// Owns a stream for each direction and the areas of the last two operations: those of the present
// one, and of the one before as far as the device is not past them. So the host is never more than
// one operation ahead.
//
// One thread at a time. Only Await and End block, as StagedBackend does. Failures name the rank,
// the device and the operation. Copies are of bytes: PieceCopy::elements counts them.
class Transfers {
 public:
  Transfers(std::shared_ptr<DeviceRuntime> runtime, int device, std::shared_ptr<PinnedPool> pinned,
            const StagingOptions& options);
  // Waits until the device is past all of it. If it never comes there, streams and memory are left
  // to it: it may still write.
  ~Transfers();

  // An operation: what is put on the streams from here on comes after what is on call.stream.
  Status Begin(const CollectiveCall& call);
  // What follows on the stream comes after all copies up.
  Status End(DeviceStream stream);
  // After a failure: what follows on the stream comes after whatever is still going on, if the
  // device can do that.
  void Abandon(DeviceStream stream) noexcept;

  // Belongs to the operation; the reference holds until it ends.
  Result<StagingArea*> Take(std::size_t bytes);
  // After what the area was used for before. Without copies there is nothing to do.
  Status Down(std::span<const PieceCopy> copies, StagingArea& area);
  Status Up(std::span<const PieceCopy> copies, StagingArea& area);  // awaited
  // Until the host may read and write the area.
  Status Await(const StagingArea& area);

 private:
  Status Open();
  Status Copy(std::span<const PieceCopy> copies, StagingArea& area, DeviceStream stream);
  bool ComesToAnEnd(DeviceStream stream, TimePoint deadline) noexcept;
  Status OfDevice(Status status) const;  // the same, with where and in what it happened

  const std::shared_ptr<DeviceRuntime> runtime_;
  const int device_;
  const std::shared_ptr<PinnedPool> pinned_;
  const StagingOptions& options_;
  const std::shared_ptr<EventPool> events_;

  std::string_view operation_;  // the present one
  std::uint64_t bytes_ = 0;
  std::deque<StagingArea> present_, earlier_;
  EventPool::Lease last_up_;  // of the present operation
  bool failed_ = false;

  // After the areas: streams go first, so that nothing is put back that something of them uses.
  std::optional<OwnedStream> down_, up_;
  std::vector<PieceCopy> small_;  // of Copy, kept for its memory
};

}  // namespace hora

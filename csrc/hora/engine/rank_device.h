// The GPU that a rank works on.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "hora/base/result.h"
#include "hora/base/status.h"
#include "hora/cuda/device_memory.h"
#include "hora/cuda/device_runtime.h"

namespace hora {

// One per rank and process, since a process that works on several GPUs is several ranks. Owns the
// runtime, which is opened when it is first asked for, and what all process sets draw from. Any
// thread. Only opening the runtime blocks (some 100 ms, for the driver).
class RankDevice {
 public:
  using Open = std::function<Result<std::shared_ptr<DeviceRuntime>>()>;
  // Memory of the device for a result whose size is known late, in the order of `stream`: whoever
  // lets go of it last may do so while the stream still uses it.
  using Allocate = std::function<Result<std::shared_ptr<std::byte>>(int device, std::size_t bytes,
                                                                    DeviceStream stream)>;

  // `pinned_bytes`: of the host's memory that are kept for staging.
  RankDevice(int rank, int local_rank, std::size_t pinned_bytes, Open open);

  // The rank works on this device from now on. kInvalidArgument: it works on another one already,
  // or there is none of that number; kResource: there are none (both say what to do).
  Status Choose(int index);
  // The one chosen; where there is none yet, the local rank's turn among those of the host.
  Result<int> Chosen();
  std::optional<int> index() const;  // none: nobody has chosen

  Result<std::shared_ptr<DeviceRuntime>> runtime();
  // What is on `stream` up to now, on the chosen device.
  Result<EventPool::Lease> Mark(DeviceStream stream);

  std::shared_ptr<PinnedPool> pinned() const;  // after runtime() was OK

  // By default the runtime's own, which is freed once the device is past all of its streams.
  // `give_back`: of what whoever allocates there keeps and does not use; may be empty.
  using GiveBack = std::function<void(int device)>;
  void SetAllocator(Allocate allocate, GiveBack give_back = {});
  Result<std::shared_ptr<std::byte>> AllocateResult(std::size_t bytes, DeviceStream stream);
  // Memory of the device is short: others in this process give back what they keep and do not use.
  // May wait for the device.
  void MakeMemoryRoom();

 private:
  Status OpenOnce();               // mutex_ held
  Status ChooseLocked(int index);  // mutex_ held

  const int rank_;
  const int local_rank_;
  const std::size_t pinned_bytes_;
  const Open open_;
  mutable std::mutex mutex_;
  // All of these: mutex_.
  std::optional<Status> opened_;  // none: not tried yet
  std::shared_ptr<DeviceRuntime> runtime_;
  std::optional<int> index_;
  std::shared_ptr<EventPool> events_;  // of the chosen device
  std::shared_ptr<PinnedPool> pinned_;
  Allocate allocate_;
  GiveBack give_back_;
};

}  // namespace hora

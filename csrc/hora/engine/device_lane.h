// The operations of one lane of a process set on this rank's GPU.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/config.h"
#include "hora/base/result.h"
#include "hora/base/status.h"
#include "hora/collectives/collective_backend.h"
#include "hora/collectives/interruption.h"
#include "hora/collectives/nccl/nccl_backend.h"
#include "hora/collectives/staged/staged_backend.h"
#include "hora/engine/device_choice.h"
#include "hora/engine/rank_device.h"
#include "hora/net/store.h"
#include "hora/tensor/device.h"
#include "hora/tensor/host_layout.h"
#include "hora/tensor/rank_names.h"

namespace hora {

// Whether an operation moves memory of a device.
inline bool IsOnDevice(const OpParams& params) {
  return params.device.type != DeviceType::kCpu && params.kind != OpKind::kBarrier &&
         params.kind != OpKind::kJoin;
}

// `what` stays until the process ends: a device that does not come to an end may use it.
void LeaveToDevice(std::shared_ptr<void> what);

struct DeviceLaneOptions {
  int rank = 0;  // place in the set
  RankNames names;
  HostLayout layout;
  std::string name;  // of the set, for texts
  std::string key;   // of the set and lane, unique in the job
  DeviceConfig config;
  Duration patience{};
  std::function<Status()> lost;  // not OK: why the set has ended
  Interruption interruption;
  std::shared_ptr<Store> store;  // null on one host: NCCL's id goes through `host`
  bool flat = false;             // HORA_BACKEND: nothing is to go in layers
  // What has the hosts as its ranks, for memory of the host; null in a rank without a part in it.
  CollectiveBackend* across = nullptr;
};

// Owns a stream, and the backends of device memory: NCCL's, inside the hosts or over all ranks, and
// the one that stages through the host for what NCCL cannot do, or for everything. Opened by the
// first operation that all ranks have agreed on, so that who has no GPU tensors pays nothing.
//
// Check, Abort, is_busy and needs_watch: any thread. The rest: whoever runs the lane, one thread at
// a time, which does not wait for the device unless the operation is staged, or in Close.
class DeviceLane {
 public:
  // `host` does the same lane's operations on host memory; it and options.across outlive this.
  DeviceLane(CollectiveBackend& host, std::shared_ptr<RankDevice> device,
             DeviceLaneOptions options);
  ~DeviceLane();  // Close, within `farewell`
  DeviceLane(const DeviceLane&) = delete;
  DeviceLane& operator=(const DeviceLane&) = delete;

  // Collective at the first call: the ranks show each other their cards and choose. Not OK: the
  // group is lost.
  Status Open();
  bool is_open() const { return is_open_; }
  // After Open: why no rank of the set can work on GPU tensors, the same on all; OK: all can.
  const Status& refusal() const { return refusal_; }

  Device device() const;
  DeviceStream stream() const;
  // What is put on the stream from now on comes after `ready`; null is nothing.
  Status StartAfter(const EventPool::Lease& ready);
  CollectiveBackend& BackendFor(const OpParams& params);  // Adasum too
  // What is on the stream up to now, for those who wait for it. Check answers for it.
  Result<EventPool::Lease> Mark();
  // Memory for a rank without operands; the same place in every call, larger where needed.
  Result<std::span<std::byte>> Scratch(std::size_t bytes);
  Result<std::shared_ptr<std::byte>> AllocateResult(std::size_t bytes);

  // What operations may have put on the stream that failed on the way; null: nothing is left of it.
  EventPool::Lease MarkRest();
  // Something was put on a stream of the caller's, and nobody knows when the device is past it: a
  // graph may come back to it. From now on Check asks NCCL as long as the lane is open.
  void LeaveUnmarked();

  // Whether the device is still at work on something that was marked, as far as Mark and Check
  // have seen.
  bool is_busy() const { return marked_.load() != 0; }
  // Somebody should call Check now and then.
  bool needs_watch() const { return is_busy() || unmarked_.load(); }
  // Looks at what the device is at. Not OK: it will never come to an end (NCCL said so, the set has
  // ended, or it takes longer than the patience): the streams were released where that is possible,
  // the group is lost.
  Status Check();
  void Abort(const Status& cause);

  // The end, in steps, so that several lanes come to theirs at the same time. Open, and what
  // follows it, fail with kShutDown from BeginEnd on, which does not wait. AwaitEnd aborts what the
  // device has not come to the end of by `until`. Close gives back stream, buffers and
  // communicator, once the device is past all of it. False: it is not by the deadline, and may be
  // at it for ever; all of it stays, and a warning says so.
  void BeginEnd();
  void AwaitEnd(TimePoint until);
  bool Close(TimePoint deadline);
  Duration farewell() const;  // what all of that should get, the first half before the abort

 private:
  struct Opened;   // what there is once it is open
  struct Opening;  // … and on the way there

  DeviceCard Prepare(Opening& opening);
  Status CreateNccl(Opening& opening);
  void MakeBackends(Opening& opening);
  std::unique_ptr<StagedBackend> Staged(Opened& opened, CollectiveBackend& inner, int rank,
                                        RankNames names) const;
  Status AgreeOnNccl(Opening& opening, const Status& mine);
  void LogChoice(const Opening& opening) const;
  Result<std::vector<std::string>> Exchange(std::string_view mine);
  std::shared_ptr<Opened> opened() const;
  Status DropDone(Opened& opened);  // marks that the device is past
  bool IsPast(Opened& opened, TimePoint until) const;
  Status Closed() const;

  CollectiveBackend& host_;
  const std::shared_ptr<RankDevice> device_;
  const DeviceLaneOptions options_;
  bool is_open_ = false;
  Status refusal_;
  bool is_closed_ = false;
  std::atomic<std::size_t> marked_{0};
  std::atomic<bool> unmarked_{false};
  mutable std::mutex mutex_;        // against Check and Abort
  std::shared_ptr<Opened> opened_;  // mutex_; null before Open and after Close
};

}  // namespace hora

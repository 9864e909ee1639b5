// An operation on tensors of a GPU, between the caller's streams and the engine's.
#pragma once

#include <memory>
#include <utility>

#include "hora/base/result.h"
#include "hora/bindings/tensor_access.h"
#include "hora/cuda/device_memory.h"
#include "hora/engine/rank_device.h"

namespace hora::bindings {

// Knows the stream that was the caller's current one when the operation was submitted, and which
// one is now. With the GIL held; nothing waits for the device. Raises when PyTorch does.
class DeviceUse {
 public:
  // The rank works on GPU `index` from now on; the operation is to come after `ready`, which is all
  // that the caller's current stream has got so far. The errors are those of RankDevice, and
  // kInvalidArgument, with nothing done, where that stream is being captured into a graph. Opening
  // the driver, once in a process, gives up the GIL.
  static Result<std::shared_ptr<DeviceUse>> Begin(RankDevice& device, int index, StreamQuery query,
                                                  EventPool::Lease& ready);

  DeviceUse(std::shared_ptr<DeviceRuntime> runtime, int index, StreamQuery query,
            DeviceStream stream)
      : runtime_(std::move(runtime)), index_(index), query_(query), submitted_on_(stream) {}

  enum class Order { kOnSubmitter, kElsewhere };
  // What the caller's current stream gets from now on comes after `event`; null: after anything.
  // `known`: that stream already waits for this event, if it is the same. kInvalidArgument, with
  // nothing done: it is being captured into a graph.
  Result<Order> Follow(const EventPool::Lease& event, DeviceEvent known = {});
  // Whether the stream of the submission has been made to come after the event.
  bool is_followed() const { return is_followed_; }

  // Whether the device has come to the event, or never will.
  bool IsPast(const EventPool::Lease& event) const;

  DeviceStream stream_now() const;
  DeviceRuntime& runtime() const { return *runtime_; }

 private:
  const std::shared_ptr<DeviceRuntime> runtime_;
  const int index_;
  const StreamQuery query_;
  const DeviceStream submitted_on_;
  bool is_followed_ = false;
};

}  // namespace hora::bindings

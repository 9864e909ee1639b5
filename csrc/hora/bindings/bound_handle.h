// An operation as Python holds it: with the tensors that must outlive it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>

#include "hora/bindings/device_use.h"
#include "hora/engine/process_set.h"
#include "hora/queue/handle.h"

namespace hora::bindings {

// `input` and `output` are None, a tensor, or a tuple of tensors that nobody can change; `device`
// is null for tensors of the CPU. A copy is the same operation. All members are called with the GIL
// held; Wait releases it while it blocks.
class BoundHandle {
 public:
  BoundHandle(std::shared_ptr<ProcessSet> set, std::shared_ptr<Handle> handle,
              pybind11::object input, pybind11::object output,
              std::shared_ptr<DeviceUse> device = nullptr);
  ~BoundHandle();  // dropped before it is done, also on the device: the tensors are kept until then
  BoundHandle(const BoundHandle&) = default;
  BoundHandle(BoundHandle&&) = default;
  BoundHandle& operator=(const BoundHandle&) = delete;

  const Handle& handle() const { return *handle_; }
  // Whether Wait would not block, and the device is through with the operation as well.
  bool IsDone() const;

  // Blocks until the host is done with the operation; what the current stream of a GPU gets from
  // then on comes after the operation. Raises the operation's error, WaitTimeoutError, or what a
  // signal handler raised. Then the tensors are let go.
  void Wait(std::optional<double> timeout_seconds);

  // The second half of Wait, for an operation that is done. Null event: one of the CPU. `known`: an
  // event that the current stream waits for already.
  DeviceEvent FollowOnStream(DeviceEvent known = {});

 private:
  std::shared_ptr<ProcessSet> set_;
  std::shared_ptr<Handle> handle_;  // null: moved from
  pybind11::object input_;
  pybind11::object output_;
  std::shared_ptr<DeviceUse> device_;
};

// Whether the engine or a device may still use the operands of an operation; `device` is null for
// those of the CPU. With the GIL held, as for those below.
bool UsesOperands(const Handle& handle, const DeviceUse* device);
// Keeps them until that is over.
void KeepOperands(std::shared_ptr<Handle> handle, std::shared_ptr<DeviceUse> device,
                  pybind11::object operands);
// Lets go of what dropped operations have kept, as far as those are done.
void ReleaseFinishedOrphans();

}  // namespace hora::bindings

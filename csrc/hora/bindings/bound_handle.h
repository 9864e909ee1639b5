// An operation as Python holds it: with the tensors that must outlive it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>

#include "hora/engine/process_set.h"
#include "hora/queue/handle.h"

namespace hora::bindings {

// `input` and `output` are None, a tensor, or a tuple of tensors that nobody can change. A copy is
// the same operation. All members are called with the GIL held; Wait releases it while it blocks.
class BoundHandle {
 public:
  BoundHandle(std::shared_ptr<ProcessSet> set, std::shared_ptr<Handle> handle,
              pybind11::object input, pybind11::object output);
  ~BoundHandle();  // dropped before it is done: the tensors are kept until it is
  BoundHandle(const BoundHandle&) = default;
  BoundHandle(BoundHandle&&) = default;
  BoundHandle& operator=(const BoundHandle&) = delete;

  const Handle& handle() const { return *handle_; }

  // Raises the operation's error, WaitTimeoutError, or what a signal handler raised. Once it is
  // done, the tensors are let go.
  void Wait(std::optional<double> timeout_seconds);

 private:
  std::shared_ptr<ProcessSet> set_;
  std::shared_ptr<Handle> handle_;  // null: moved from
  pybind11::object input_;
  pybind11::object output_;
};

}  // namespace hora::bindings

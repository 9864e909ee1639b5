// What the engine tells whoever watches it: the seam for metrics, the flight recorder and
// timelines.
#pragma once

#include <cstdint>
#include <string_view>

#include "hora/base/status.h"
#include "hora/tensor/op_kind.h"

namespace hora {

// Called by the progress context unless said otherwise, so it must be quick; nothing may block or
// throw.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnSubmit(OpKind, std::string_view /*name*/, std::uint64_t /*bytes*/) {
  }  // any thread
  virtual void OnAgreed(OpKind, std::string_view /*name*/) {}
  virtual void OnBatchBegin(OpKind, std::size_t /*members*/, std::uint64_t /*bytes*/) {}
  virtual void OnBatchEnd(OpKind, const Status&) {}
  virtual void OnComplete(std::string_view /*name*/, const Status&) {}
};

}  // namespace hora

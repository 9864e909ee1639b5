// What the engine tells whoever watches it: the seam for metrics, the flight recorder and
// timelines.
#pragma once

#include <cstdint>
#include <string_view>

#include "hora/base/status.h"
#include "hora/tensor/op_kind.h"

namespace hora {

// Which operation an event is about. Operations of one process set meet by name.
struct OpLabel {
  int process_set = 0;
  OpKind kind = OpKind::kAllreduce;
  std::string_view name;
  bool bulk = false;  // of a batch: on the bulk lane
};

// Called by whatever threads run the lanes of the process sets, so it must be quick; nothing may
// block or throw.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnSubmit(const OpLabel&, std::uint64_t /*bytes*/) {}
  virtual void OnAgreed(const OpLabel&) {}
  // `label` is the first member's; one batch of a process set and lane at a time.
  virtual void OnBatchBegin(const OpLabel&, std::size_t /*members*/, std::uint64_t /*bytes*/) {}
  // So much of the present batch was reduced where it lay, in symmetric memory.
  virtual void OnInPlace(const OpLabel&, std::uint64_t /*bytes*/) {}
  virtual void OnBatchEnd(const OpLabel&, const Status&) {}
  virtual void OnComplete(const OpLabel&, const Status&) {}
};

}  // namespace hora

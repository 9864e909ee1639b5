// Collectives of one host through the shared windows of its board.
#pragma once

#include <cstdint>
#include <memory>

#include "hora/base/wait.h"
#include "hora/collectives/collective_backend.h"
#include "hora/collectives/shm/algorithms.h"
#include "hora/collectives/shm/step_windows.h"
#include "hora/shm/board.h"

namespace hora {

struct ShmBackendOptions {
  int rank = 0;
  WaitPolicy wait;
  Duration patience = std::chrono::seconds(300);  // for a peer in the middle of a collective
};

// A batch is streamed through the windows in steps of window_bytes. Within a step rank r reduces
// slice r over all ranks in rank order and writes the sum back into every window, so each cache
// line travels between two cores only; batches that fit the small limit are reduced by every rank
// for itself, without the second phase. Steps are numbered through the life of the board; a window
// is refilled only when every rank is past the step that used it before.
//
// Shares the board. One thread at a time; Execute blocks as its base says. After a failure the
// steps of the ranks no longer match, so every later call returns the same status.
class ShmBackend final : public CollectiveBackend {
 public:
  ShmBackend(std::shared_ptr<Board> board, const ShmBackendOptions& options);

  std::string_view name() const override { return "shm"; }
  bool Supports(const OpParams& params) const override;
  Status Execute(CollectiveCall& call) override;

 private:
  StepWindows windows_;
  ReducePointers pointers_;
  Status failure_;
};

}  // namespace hora

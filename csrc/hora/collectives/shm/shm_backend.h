// Collectives of one host through a lane of its board.
#pragma once

#include <cstdint>
#include <memory>

#include "hora/collectives/collective_backend.h"
#include "hora/collectives/shm/algorithms.h"
#include "hora/collectives/shm/direct_copy.h"
#include "hora/collectives/shm/step_windows.h"
#include "hora/shm/board.h"

namespace hora {

// A batch is streamed through the windows in steps of at most window_bytes; each algorithm says in
// its file what a window holds. Steps are numbered through the life of the lane; a window is
// refilled only when every rank is past the step that used it before.
//
// Shares the board. One thread at a time; Execute blocks as its base says. After a failure the
// steps of the ranks no longer match, so every later call returns the same status.
class ShmBackend final : public CollectiveBackend {
 public:
  ShmBackend(std::shared_ptr<Board> board, ShmLaneOptions options);

  std::string_view name() const override { return "shm"; }
  bool Supports(const OpParams& params) const override;
  // Takes chunk_bytes and small_allreduce_bytes; before the first call they are the default chunk
  // and kDefaultSmallBytes.
  void Retune(const Tuning& tuning) override;
  Status Execute(CollectiveCall& call) override;

 private:
  StepWindows windows_;
  DirectCopy direct_;
  ReduceState reduce_;
  Status failure_;
};

}  // namespace hora

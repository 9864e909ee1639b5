#include "hora/collectives/chunks.h"
#include "hora/collectives/paired_pieces.h"
#include "hora/collectives/shm/algorithms.h"

namespace hora {
namespace {

// The root never looks at the others' windows, so it may place any step as soon as it may refill
// the window.
Status Send(StepWindows& windows, CollectiveCall& call, const Chunks& chunks, std::uint64_t first) {
  for (std::uint64_t k = 0; k < chunks.count; ++k) {
    if (Status status = windows.Acquire(first + k); !status.ok()) return status;
    const std::uint64_t offset = chunks.Offset(k);
    const std::size_t bytes = chunks.BytesAt(k);
    call.inputs[0].Gather(offset, {windows.Window(windows.self(), first + k), bytes});
    windows.PublishCopied(first + k);
    CopyPieces(call.inputs[0], call.outputs[0], offset, bytes);
  }
  return Status::Ok();
}

// The others place nothing; `reduced` says which steps they have read.
Status Receive(StepWindows& windows, CollectiveCall& call, const Chunks& chunks,
               std::uint64_t first) {
  const int root = call.params.root_rank;
  for (std::uint64_t k = 0; k < chunks.count; ++k) {
    if (Status status = windows.AwaitCopied(root, first + k); !status.ok()) return status;
    call.outputs[0].Scatter(chunks.Offset(k), {windows.Window(root, first + k), chunks.BytesAt(k)});
    windows.PublishReduced(first + k);
  }
  return Status::Ok();
}

}  // namespace

Status ShmBroadcast(StepWindows& windows, CollectiveCall& call) {
  const Chunks chunks = Chunks::Of(call.bytes_per_rank[0], windows.chunk_bytes());
  const std::uint64_t first = windows.Begin("broadcast", chunks.count);
  return windows.self() == call.params.root_rank ? Send(windows, call, chunks, first)
                                                 : Receive(windows, call, chunks, first);
}

}  // namespace hora

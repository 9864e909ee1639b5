#include "hora/collectives/alone.h"
#include "hora/collectives/one_piece.h"
#include "hora/collectives/plugin/library_group.h"
#include "hora/collectives/steps.h"
#include "hora/kernels/reduce.h"

namespace hora {

// An alltoall brings to each rank its part from everybody, a share of it a step, and hora's kernels
// reduce it in the order of the ranks.
Status PluginReducescatter(LibraryGroup& group, PluginStaging staging, CollectiveCall& call) {
  const auto size = static_cast<std::size_t>(group.size());
  const auto self = static_cast<std::size_t>(group.rank());
  std::uint64_t sent = 0;  // by every rank
  std::uint64_t longest = 0;
  for (const std::uint64_t bytes : call.bytes_per_rank) {
    sent += bytes;
    longest = std::max(longest, bytes);
  }
  const std::uint64_t received = longest * size;  // by the rank that gets most
  const std::uint64_t steps = CeilDivide(std::max(sent, received), staging.piece_bytes);
  const ReduceSpec spec = SpecOf(call);
  std::vector<Share> shares(size);
  for (std::size_t rank = 0; rank < size; ++rank) {
    shares[rank] = Share(call.bytes_per_rank[rank], steps);
  }
  std::vector<std::uint64_t> sends(size);
  std::vector<const std::byte*> sources(size);
  for (std::uint64_t step = 0; step < steps; ++step) {
    std::size_t sending = 0;
    for (std::size_t rank = 0; rank < size; ++rank) {
      sends[rank] = shares[rank].BytesAt(step);
      sending += sends[rank];
    }
    const std::size_t count = sends[self];
    const std::byte* input = steps == 1 ? OneAfterTheOther(call.inputs) : nullptr;
    if (input == nullptr) {
      std::byte* to = Room(staging.first, sending).data();
      input = to;
      for (std::size_t rank = 0; rank < size; ++rank) {
        if (sends[rank] == 0) continue;
        call.inputs[rank].Gather(shares[rank].OffsetAt(step), {to, sends[rank]});
        to += sends[rank];
      }
    }
    std::byte* const operands = Room(staging.second, count * size).data();
    const std::vector<std::uint64_t> receives(size, count);
    if (Status status = group.Alltoall(input, sends, operands, receives); !status.ok()) {
      return status;
    }
    if (count == 0) continue;
    for (std::size_t rank = 0; rank < size; ++rank) sources[rank] = operands + rank * count;
    call.outputs[0].ForEachPiece(
        shares[self].OffsetAt(step), count, [&](std::span<std::byte> piece) {
          std::byte* const to = piece.data();
          Reduce(spec, sources, {&to, 1}, piece.size() / SizeOf(spec.dtype));
          for (const std::byte*& source : sources) source += piece.size();
        });
  }
  return Status::Ok();
}

}  // namespace hora

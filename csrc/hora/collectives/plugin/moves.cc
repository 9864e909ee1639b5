// The operations that move bytes as they are.
#include "hora/collectives/one_piece.h"
#include "hora/collectives/plugin/library_group.h"
#include "hora/collectives/steps.h"

namespace hora {
namespace {

// One step's part of several streams, gathered one after the other into `memory`.
std::byte* GatherStep(std::vector<ByteStream>& streams, const std::vector<Share>& shares,
                      std::uint64_t step, std::span<std::byte> memory) {
  std::byte* to = memory.data();
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const std::uint64_t bytes = shares[i].BytesAt(step);
    if (bytes > 0) streams[i].Gather(shares[i].OffsetAt(step), {to, bytes});
    to += bytes;
  }
  return memory.data();
}

void ScatterStep(std::vector<ByteStream>& streams, const std::vector<Share>& shares,
                 std::uint64_t step, const std::byte* from) {
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const std::uint64_t bytes = shares[i].BytesAt(step);
    if (bytes > 0) streams[i].Scatter(shares[i].OffsetAt(step), {from, bytes});
    from += bytes;
  }
}

// What a step moves, by rank, and in all.
std::uint64_t BytesOfStep(const std::vector<Share>& shares, std::uint64_t step,
                          std::vector<std::uint64_t>& bytes) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < shares.size(); ++i) total += bytes[i] = shares[i].BytesAt(step);
  return total;
}

}  // namespace

Status PluginAllgather(LibraryGroup& group, PluginStaging staging, CollectiveCall& call) {
  const auto self = static_cast<std::size_t>(group.rank());
  std::uint64_t total = 0;
  for (const std::uint64_t bytes : call.bytes_per_rank) total += bytes;
  const std::uint64_t steps = CeilDivide(total, staging.piece_bytes);
  std::vector<Share> shares;
  for (const std::uint64_t bytes : call.bytes_per_rank) shares.emplace_back(bytes, steps);
  std::vector<std::uint64_t> bytes(shares.size());
  for (std::uint64_t step = 0; step < steps; ++step) {
    const std::uint64_t received = BytesOfStep(shares, step, bytes);
    const std::size_t offset = shares[self].OffsetAt(step);
    const std::byte* input = InOnePiece(call.inputs[0], offset, bytes[self]);
    // An input that is this rank's part of the output would overlap it.
    const bool alias =
        input != nullptr && input == InOnePiece(call.outputs[self], offset, bytes[self]);
    if (bytes[self] > 0 && (input == nullptr || alias)) {
      const std::span<std::byte> room = Room(staging.first, bytes[self]);
      call.inputs[0].Gather(offset, room);
      input = room.data();
    }
    std::byte* const direct = steps == 1 ? OneAfterTheOther(call.outputs) : nullptr;
    std::byte* const output = direct != nullptr ? direct : Room(staging.second, received).data();
    if (Status status = group.Allgather(input, output, bytes); !status.ok()) return status;
    if (direct == nullptr) ScatterStep(call.outputs, shares, step, output);
  }
  return Status::Ok();
}

Status PluginAlltoall(LibraryGroup& group, PluginStaging staging, CollectiveCall& call) {
  const auto size = static_cast<std::size_t>(group.size());
  const auto self = static_cast<std::size_t>(group.rank());
  const auto from_to = [&](std::size_t from, std::size_t to) {
    return call.bytes_per_rank[from * size + to];
  };
  std::uint64_t most = 0;  // that any rank sends or receives
  for (std::size_t rank = 0; rank < size; ++rank) {
    std::uint64_t sent = 0, received = 0;
    for (std::size_t other = 0; other < size; ++other) {
      sent += from_to(rank, other);
      received += from_to(other, rank);
    }
    most = std::max({most, sent, received});
  }
  const std::uint64_t steps = CeilDivide(most, staging.piece_bytes);
  std::vector<Share> sends, receives;
  for (std::size_t other = 0; other < size; ++other) {
    sends.emplace_back(from_to(self, other), steps);
    receives.emplace_back(from_to(other, self), steps);
  }
  std::vector<std::uint64_t> bytes_to(size), bytes_from(size);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const std::uint64_t sending = BytesOfStep(sends, step, bytes_to);
    const std::uint64_t receiving = BytesOfStep(receives, step, bytes_from);
    const std::byte* input = steps == 1 ? OneAfterTheOther(call.inputs) : nullptr;
    if (input == nullptr)
      input = GatherStep(call.inputs, sends, step, Room(staging.first, sending));
    std::byte* const direct = steps == 1 ? OneAfterTheOther(call.outputs) : nullptr;
    std::byte* const output = direct != nullptr ? direct : Room(staging.second, receiving).data();
    Status status = group.Alltoall(input, bytes_to, output, bytes_from);
    if (!status.ok()) return status;
    if (direct == nullptr) ScatterStep(call.outputs, receives, step, output);
  }
  return Status::Ok();
}

Status PluginBroadcast(LibraryGroup& group, PluginStaging staging, CollectiveCall& call) {
  const bool is_root = group.rank() == call.params.root_rank;
  ByteStream& output = call.outputs[0];
  const std::uint64_t total = call.bytes_per_rank[0];
  for (std::uint64_t at = 0; at < total; at += staging.piece_bytes) {
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(total - at, staging.piece_bytes));
    std::byte* const direct = InOnePiece(output, at, count);
    const std::span<std::byte> buffer =
        direct != nullptr ? std::span(direct, count) : Room(staging.first, count);
    // Where the root's output is its input, it is its own source.
    if (is_root && (direct == nullptr || InOnePiece(call.inputs[0], at, count) != direct)) {
      call.inputs[0].Gather(at, buffer);
    }
    Status status = group.Broadcast(buffer, call.params.root_rank);
    if (!status.ok()) return status;
    if (direct == nullptr) output.Scatter(at, buffer);
  }
  return Status::Ok();
}

}  // namespace hora

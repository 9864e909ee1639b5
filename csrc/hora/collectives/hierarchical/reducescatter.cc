#include <algorithm>
#include <numeric>

#include "hora/collectives/alone.h"
#include "hora/collectives/hierarchical/hierarchical_backend.h"
#include "hora/collectives/hierarchical/host_blocks.h"
#include "hora/collectives/hierarchical/lane_shares.h"

namespace hora {

// The blocks of each host are cut among the lanes: lane l reduces its part of every host's inside
// this host and sends it there; what it gets it hands out to the ranks whose blocks it is of.
Status HierarchicalBackend::Reducescatter(CollectiveCall& call) {
  if (MustBeExact(call)) return ExactReducescatter(call);
  const std::uint64_t total =
      std::accumulate(call.bytes_per_rank.begin(), call.bytes_per_rank.end(), std::uint64_t{0});
  const std::uint64_t steps =
      CeilDivide(total, lane_piece_bytes_ * static_cast<std::uint64_t>(lanes_));
  std::vector<HostBlocks> blocks;
  for (int h = 0; h < layout_.hosts(); ++h) blocks.emplace_back(layout_, h, call.bytes_per_rank);
  const HostBlocks& own = blocks[static_cast<std::size_t>(host_)];
  for (std::uint64_t step = 0; step < steps; ++step) {
    const auto part_of = [&](const HostBlocks& host, int lane) {
      return PartOfLane(WindowAt(Share(host.bytes(), steps), step), lane, lanes_);
    };
    CollectiveCall scatter = PartialCall(call, OpKind::kReducescatter, local_size());
    CollectiveCall across = PartialCall(call, OpKind::kReducescatter, layout_.hosts());
    ScaleInside(call, scatter, across);
    for (int i = 0; i < local_size(); ++i) {
      StreamOfParts parts;
      for (const HostBlocks& host : blocks) host.Add(call.inputs, part_of(host, i), parts);
      scatter.inputs.push_back(parts.Take());
      scatter.bytes_per_rank.push_back(scatter.inputs.back().size());
    }
    const std::size_t sums = scatter.bytes_per_rank[static_cast<std::size_t>(local_)];
    const ByteRange mine = part_of(own, local_);
    const std::span<std::byte> memory =
        Room(scratch_, sums + static_cast<std::size_t>(mine.bytes()));
    const std::span<std::byte> result = memory.subspan(sums);
    scatter.outputs = {StreamOfParts().Add(memory.first(sums)).Take()};
    for (const HostBlocks& host : blocks) {
      const ByteRange part = part_of(host, local_);
      const std::uint64_t at = std::accumulate(across.bytes_per_rank.begin(),
                                               across.bytes_per_rank.end(), std::uint64_t{0});
      across.inputs.push_back(
          StreamOfParts().Add(memory.subspan(at, static_cast<std::size_t>(part.bytes()))).Take());
      across.bytes_per_rank.push_back(part.bytes());
    }
    across.outputs = {StreamOfParts().Add(result).Take()};
    CollectiveCall hand_out = PartialCall(call, OpKind::kAlltoall, local_size());
    for (int i = 0; i < local_size(); ++i) {
      for (int d = 0; d < local_size(); ++d) {
        hand_out.bytes_per_rank.push_back(Overlap(part_of(own, i), own.of(d)).bytes());
      }
      const ByteRange to = Overlap(mine, own.of(i));
      hand_out.inputs.push_back(
          StreamOfParts()
              .Add(result.subspan(to.bytes() == 0 ? 0 : to.begin - mine.begin, to.bytes()))
              .Take());
      const ByteRange block = own.of(local_);
      const ByteRange from = Overlap(part_of(own, i), block);
      hand_out.outputs.push_back(
          from.bytes() == 0
              ? ByteStream()
              : PartOf(call.outputs[0], {from.begin - block.begin, from.end - block.begin}));
    }
    Status status = inside_->Execute(scatter);
    if (status.ok() && has_lane()) status = across_->Execute(across);
    if (status.ok()) status = inside_->Execute(hand_out);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

// An alltoall brings the operands of a piece of every block to its rank.
Status HierarchicalBackend::ExactReducescatter(CollectiveCall& call) {
  const int size = layout_.size();
  const auto self = static_cast<std::size_t>(rank_);
  const std::uint64_t longest = *std::ranges::max_element(call.bytes_per_rank);
  const std::uint64_t steps =
      CeilDivide(longest * static_cast<std::uint64_t>(size), lane_piece_bytes_);
  const ReduceSpec spec = SpecOf(call);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const auto window_of = [&](std::size_t r) {
      return WindowAt(Share(call.bytes_per_rank[r], steps), step);
    };
    const ByteRange own = window_of(self);
    const auto bytes = static_cast<std::size_t>(own.bytes());
    std::byte* const operands = Room(operands_, bytes * static_cast<std::size_t>(size)).data();
    CollectiveCall bring = PartialCall(call, OpKind::kAlltoall, size);
    std::vector<const std::byte*> sources;
    for (std::size_t r = 0; r < static_cast<std::size_t>(size); ++r) {
      for (std::size_t d = 0; d < static_cast<std::size_t>(size); ++d) {
        bring.bytes_per_rank.push_back(window_of(d).bytes());
      }
      bring.inputs.push_back(PartOf(call.inputs[r], window_of(r)));
      bring.outputs.push_back(StreamOfParts().Add({operands + r * bytes, bytes}).Take());
      sources.push_back(operands + r * bytes);
    }
    if (Status status = Alltoall(bring); !status.ok()) return status;
    if (bytes == 0) continue;
    Reduce(spec, sources, {&operands, 1}, bytes / SizeOf(spec.dtype));
    call.outputs[0].Scatter(own.begin, {operands, bytes});
  }
  return Status::Ok();
}

}  // namespace hora

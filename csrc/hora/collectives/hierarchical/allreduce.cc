#include "hora/collectives/alone.h"
#include "hora/collectives/hierarchical/hierarchical_backend.h"
#include "hora/collectives/hierarchical/lane_shares.h"

namespace hora {
namespace {

// One line for each rank of a host: always worth fewer steps.
constexpr std::uint64_t kFewBytes = 56;

}  // namespace

Status HierarchicalBackend::Allreduce(CollectiveCall& call) {
  const std::uint64_t total = call.bytes_per_rank[0];
  if (total == 0) return Status::Ok();
  if (MustBeExact(call)) return ExactAllreduce(call);
  if (total <= std::max(small_bytes_, kFewBytes)) return SmallAllreduce(call);
  ByteStream& input = call.inputs[0];
  ByteStream& output = call.outputs[0];
  const std::uint64_t steps =
      CeilDivide(total, lane_piece_bytes_ * static_cast<std::uint64_t>(lanes_));
  const Share share(total, steps);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const ByteRange window = WindowAt(share, step);
    const ByteRange own = PartOfLane(window, local_, lanes_);
    CollectiveCall scatter = PartialCall(call, OpKind::kReducescatter, local_size());
    CollectiveCall across = PartialCall(call, OpKind::kAllreduce, layout_.hosts());
    CollectiveCall gather = PartialCall(call, OpKind::kAllgather, local_size());
    ScaleInside(call, scatter, across);
    for (int l = 0; l < local_size(); ++l) {
      const ByteRange part = PartOfLane(window, l, lanes_);
      scatter.bytes_per_rank.push_back(part.bytes());
      scatter.inputs.push_back(PartOf(input, part));
      gather.outputs.push_back(PartOf(output, part));
    }
    gather.bytes_per_rank = scatter.bytes_per_rank;
    scatter.outputs = {PartOf(output, own)};
    gather.inputs = across.inputs = across.outputs = scatter.outputs;
    across.bytes_per_rank = {own.bytes()};
    Status status = inside_->Execute(scatter);
    if (status.ok() && has_lane()) status = across_->Execute(across);
    if (status.ok()) status = inside_->Execute(gather);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

Status HierarchicalBackend::SmallAllreduce(CollectiveCall& call) {
  CollectiveCall inside = PartialCall(call, OpKind::kAllreduce, local_size());
  CollectiveCall across = PartialCall(call, OpKind::kAllreduce, layout_.hosts());
  ScaleInside(call, inside, across);
  inside.bytes_per_rank = across.bytes_per_rank = call.bytes_per_rank;
  inside.inputs = call.inputs;
  inside.outputs = across.inputs = across.outputs = call.outputs;
  Status status = inside_->Execute(inside);
  if (status.ok() && local_ == 0) status = across_->Execute(across);
  if (!status.ok() || local_size() == 1) return status;
  CollectiveCall result = PartialCall(call, OpKind::kBroadcast, local_size());
  result.params.root_rank = 0;
  result.bytes_per_rank = call.bytes_per_rank;
  if (local_ == 0) result.inputs = call.outputs;
  result.outputs = call.outputs;
  return inside_->Execute(result);
}

// Rank r gets slice r of each window from all who bring one, reduces it, and hands it out.
Status HierarchicalBackend::ExactAllreduce(CollectiveCall& call) {
  const int size = layout_.size();
  const std::uint64_t total = call.bytes_per_rank[0];
  const std::uint64_t steps = CeilDivide(total, lane_piece_bytes_);
  const Share share(total, steps);
  const bool brings = !call.absent.Contains(rank_);
  const ReduceSpec spec = SpecOf(call);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const ByteRange window = WindowAt(share, step);
    const std::uint64_t own = PartOfLane(window, rank_, size).bytes();
    std::byte* const operands =
        Room(operands_, static_cast<std::size_t>(own) * static_cast<std::size_t>(size)).data();
    CollectiveCall bring = PartialCall(call, OpKind::kAlltoall, size);
    CollectiveCall gather = PartialCall(call, OpKind::kAllgather, size);
    std::vector<const std::byte*> sources;
    for (int r = 0; r < size; ++r) {
      const ByteRange part = PartOfLane(window, r, size);
      const bool has = !call.absent.Contains(r);
      for (int d = 0; d < size; ++d) {
        bring.bytes_per_rank.push_back(has ? PartOfLane(window, d, size).bytes() : 0);
      }
      bring.inputs.push_back(brings ? PartOf(call.inputs[0], part) : ByteStream());
      const std::span operand(operands + static_cast<std::size_t>(r) * own,
                              has ? static_cast<std::size_t>(own) : 0);
      bring.outputs.push_back(StreamOfParts().Add(operand).Take());
      if (has) sources.push_back(operand.data());
      gather.bytes_per_rank.push_back(part.bytes());
      gather.outputs.push_back(PartOf(call.outputs[0], part));
    }
    if (Status status = Alltoall(bring); !status.ok()) return status;
    if (own > 0) {
      std::byte* const sum = operands + own * static_cast<std::size_t>(rank_);
      Reduce(spec, sources, {&sum, 1}, own / SizeOf(spec.dtype));
      gather.outputs[static_cast<std::size_t>(rank_)].Scatter(0,
                                                              {sum, static_cast<std::size_t>(own)});
    }
    gather.inputs = {gather.outputs[static_cast<std::size_t>(rank_)]};
    if (Status status = Allgather(gather); !status.ok()) return status;
  }
  return Status::Ok();
}

}  // namespace hora

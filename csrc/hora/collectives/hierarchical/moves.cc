#include "hora/collectives/hierarchical/hierarchical_backend.h"
#include "hora/collectives/hierarchical/host_blocks.h"
#include "hora/collectives/hierarchical/lane_shares.h"

namespace hora {

// Inside, every rank gets the blocks of its host; lane l brings part l of them to the other hosts,
// and hands out what it gets from there. All of it lies in the outputs from the beginning.
Status HierarchicalBackend::Allgather(CollectiveCall& call) {
  CollectiveCall own = PartialCall(call, OpKind::kAllgather, local_size());
  own.inputs = call.inputs;
  for (int i = 0; i < local_size(); ++i) {
    const auto source = static_cast<std::size_t>(layout_.first_of(host_) + i);
    own.bytes_per_rank.push_back(call.bytes_per_rank[source]);
    own.outputs.push_back(call.outputs[source]);
  }
  if (Status status = inside_->Execute(own); !status.ok()) return status;

  CollectiveCall across = PartialCall(call, OpKind::kAllgather, layout_.hosts());
  std::vector<StreamOfParts> foreign(static_cast<std::size_t>(local_size()));
  for (int host = 0; host < layout_.hosts(); ++host) {
    const HostBlocks blocks(layout_, host, call.bytes_per_rank);
    for (int i = 0; i < local_size(); ++i) {
      const ByteRange part = PartOfLane({0, blocks.bytes()}, i, lanes_);
      if (host != host_) blocks.Add(call.outputs, part, foreign[static_cast<std::size_t>(i)]);
      if (i != local_) continue;
      across.bytes_per_rank.push_back(part.bytes());
      across.outputs.push_back(blocks.StreamOf(call.outputs, part));
    }
  }
  across.inputs = {across.outputs[static_cast<std::size_t>(host_)]};
  if (has_lane()) {
    if (Status status = across_->Execute(across); !status.ok()) return status;
  }
  CollectiveCall gather = PartialCall(call, OpKind::kAllgather, local_size());
  for (StreamOfParts& parts : foreign) {
    gather.outputs.push_back(parts.Take());
    gather.bytes_per_rank.push_back(gather.outputs.back().size());
  }
  gather.inputs = {gather.outputs[static_cast<std::size_t>(local_)]};
  return local_size() == 1 ? Status::Ok() : inside_->Execute(gather);
}

// To the root's host; across by the lanes, each its part; inside the other hosts.
Status HierarchicalBackend::Broadcast(CollectiveCall& call) {
  const std::uint64_t total = call.bytes_per_rank[0];
  const int root_host = layout_.host_of(call.params.root_rank);
  ByteStream& output = call.outputs[0];
  const std::uint64_t steps =
      CeilDivide(total, lane_piece_bytes_ * static_cast<std::uint64_t>(lanes_));
  const Share share(total, steps);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const ByteRange window = WindowAt(share, step);
    Status status;
    if (host_ == root_host) {
      CollectiveCall first = PartialCall(call, OpKind::kBroadcast, local_size());
      first.params.root_rank = layout_.local_of(call.params.root_rank);
      first.bytes_per_rank = {window.bytes()};
      if (rank_ == call.params.root_rank) first.inputs = {PartOf(call.inputs[0], window)};
      first.outputs = {PartOf(output, window)};
      status = inside_->Execute(first);
    }
    const ByteRange own = PartOfLane(window, local_, lanes_);
    if (status.ok() && has_lane()) {
      CollectiveCall across = PartialCall(call, OpKind::kBroadcast, layout_.hosts());
      across.params.root_rank = root_host;
      across.bytes_per_rank = {own.bytes()};
      across.inputs = {PartOf(output, own)};
      across.outputs = across.inputs;
      status = across_->Execute(across);
    }
    if (status.ok() && host_ != root_host && local_size() > 1) {
      CollectiveCall gather = PartialCall(call, OpKind::kAllgather, local_size());
      for (int i = 0; i < local_size(); ++i) {
        const ByteRange part = PartOfLane(window, i, lanes_);
        gather.bytes_per_rank.push_back(part.bytes());
        gather.outputs.push_back(PartOf(output, part));
      }
      gather.inputs = {gather.outputs[static_cast<std::size_t>(local_)]};
      status = inside_->Execute(gather);
    }
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

}  // namespace hora

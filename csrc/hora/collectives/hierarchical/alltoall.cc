#include <algorithm>

#include "hora/collectives/hierarchical/hierarchical_backend.h"
#include "hora/collectives/hierarchical/lane_shares.h"

namespace hora {
namespace {

// What the ranks of one host send to those of another, put together by sender, then by receiver,
// is cut into steps, and each step among the lanes of the sending host. Its lane collects its part
// inside, sends it across, and the same lane there hands it out.
class AlltoallPlan {
 public:
  AlltoallPlan(const HostLayout& layout, const CollectiveCall& call)
      : layout_(layout),
        bytes_(call.bytes_per_rank),
        hosts_(static_cast<std::size_t>(layout.hosts())),
        between_(hosts_ * hosts_) {
    std::vector<std::uint64_t> sent(hosts_);
    std::vector<std::uint64_t> received(hosts_);
    for (int s = 0; s < layout_.size(); ++s) {
      const auto from = static_cast<std::size_t>(layout_.host_of(s));
      for (int d = 0; d < layout_.size(); ++d) {
        const auto to = static_cast<std::size_t>(layout_.host_of(d));
        if (from == to) continue;
        between_[from * hosts_ + to] += BytesOf(s, d);
        sent[from] += BytesOf(s, d);
        received[to] += BytesOf(s, d);
      }
    }
    const std::uint64_t most =
        std::max(*std::ranges::max_element(sent), *std::ranges::max_element(received));
    steps_ = CeilDivide(
        most, HierarchicalBackend::kLanePieceBytes * static_cast<std::uint64_t>(layout.lanes()));
  }

  std::uint64_t steps() const { return steps_; }

  // Of what `from` sends to `to`, which may be the same host (then nothing).
  ByteRange PartOfHost(int from, int to, std::uint64_t step, int lane) const {
    const std::uint64_t total =
        between_[static_cast<std::size_t>(from) * hosts_ + static_cast<std::size_t>(to)];
    return PartOfLane(WindowAt(Share(total, steps_), step), lane, layout_.lanes());
  }

  // Calls visit(sender, receiver, range of their block, its place in the part) for each block that
  // has bytes in the part, in the order of the part.
  template <class Visit>
  void ForBlocks(int from, int to, std::uint64_t step, int lane, Visit visit) const {
    const ByteRange part = PartOfHost(from, to, step, lane);
    ByteRange block;
    for (int s = layout_.first_of(from); s < layout_.first_of(from) + layout_.size_of(from); ++s) {
      for (int d = layout_.first_of(to); d < layout_.first_of(to) + layout_.size_of(to); ++d) {
        block = {block.end, block.end + BytesOf(s, d)};
        const ByteRange shared = Overlap(part, block);
        if (shared.bytes() == 0) continue;
        visit(s, d, ByteRange{shared.begin - block.begin, shared.end - block.begin},
              static_cast<std::size_t>(shared.begin - part.begin));
      }
    }
  }

 private:
  std::uint64_t BytesOf(int s, int d) const {
    return bytes_[static_cast<std::size_t>(s) * static_cast<std::size_t>(layout_.size()) +
                  static_cast<std::size_t>(d)];
  }

  const HostLayout& layout_;
  const std::vector<std::uint64_t>& bytes_;
  const std::size_t hosts_;
  std::vector<std::uint64_t> between_;  // by sending, then by receiving host; none within a host
  std::uint64_t steps_ = 0;
};

// The three alltoalls of a step, as they are put together.
struct AlltoallStep {
  CollectiveCall collect;
  CollectiveCall across;
  CollectiveCall hand_out;
};

std::vector<ByteStream> Taken(std::vector<StreamOfParts>& parts) {
  std::vector<ByteStream> streams;
  for (StreamOfParts& part : parts) streams.push_back(part.Take());
  return streams;
}

// One rank's view of a step.
class StepOfRank {
 public:
  StepOfRank(const HostLayout& layout, int rank, const AlltoallPlan& plan, std::uint64_t step)
      : layout_(layout),
        plan_(plan),
        step_(step),
        host_(layout.host_of(rank)),
        local_(layout.local_of(rank)),
        ranks_(static_cast<std::size_t>(layout.size_of(host_))) {}

  AlltoallStep Make(CollectiveCall& call, std::vector<std::byte>& scratch) const {
    const int hosts = layout_.hosts();
    AlltoallStep calls{PartialCall(call, OpKind::kAlltoall, static_cast<int>(ranks_)),
                       PartialCall(call, OpKind::kAlltoall, hosts),
                       PartialCall(call, OpKind::kAlltoall, static_cast<int>(ranks_))};
    std::size_t room = 0;
    for (int h = 0; h < hosts; ++h) room += PartBytes(host_, h) + PartBytes(h, host_);
    std::span<std::byte> memory = Room(scratch, room);
    const auto take = [&](std::size_t bytes) {
      const std::span<std::byte> taken = memory.first(bytes);
      memory = memory.subspan(bytes);
      return taken;
    };
    std::vector<std::span<std::byte>> leaving;
    std::vector<std::span<std::byte>> arriving;
    for (int h = 0; h < hosts; ++h) {
      leaving.push_back(take(PartBytes(host_, h)));
      arriving.push_back(take(PartBytes(h, host_)));
      calls.across.inputs.push_back(StreamOfParts().Add(leaving.back()).Take());
      calls.across.outputs.push_back(StreamOfParts().Add(arriving.back()).Take());
      for (int to = 0; to < hosts; ++to) {
        calls.across.bytes_per_rank.push_back(PartBytes(h, to));
      }
    }
    Collect(call, leaving, calls.collect);
    HandOut(call, arriving, calls.hand_out);
    return calls;
  }

 private:
  using Memory = std::vector<std::span<std::byte>>;  // by host

  std::size_t PartBytes(int from, int to) const {
    return static_cast<std::size_t>(plan_.PartOfHost(from, to, step_, local_).bytes());
  }
  std::size_t LocalOf(int rank) const {
    return static_cast<std::size_t>(rank - layout_.first_of(host_));
  }

  void Collect(CollectiveCall& call, const Memory& leaving, CollectiveCall& collect) const {
    std::vector<StreamOfParts> inputs(ranks_);
    std::vector<StreamOfParts> outputs(ranks_);
    collect.bytes_per_rank.resize(ranks_ * ranks_);
    for (int to = 0; to < layout_.hosts(); ++to) {
      for (std::size_t lane = 0; lane < ranks_; ++lane) {
        const auto visit = [&](int s, int d, ByteRange range, std::size_t at) {
          const std::size_t sender = LocalOf(s);
          collect.bytes_per_rank[sender * ranks_ + lane] += range.bytes();
          if (sender == static_cast<std::size_t>(local_)) {
            inputs[lane].Add(call.inputs[static_cast<std::size_t>(d)], range);
          }
          if (lane == static_cast<std::size_t>(local_)) {
            outputs[sender].Add(leaving[static_cast<std::size_t>(to)].subspan(at, range.bytes()));
          }
        };
        plan_.ForBlocks(host_, to, step_, static_cast<int>(lane), visit);
      }
    }
    collect.inputs = Taken(inputs);
    collect.outputs = Taken(outputs);
  }

  void HandOut(CollectiveCall& call, const Memory& arriving, CollectiveCall& hand_out) const {
    std::vector<StreamOfParts> inputs(ranks_);
    std::vector<StreamOfParts> outputs(ranks_);
    hand_out.bytes_per_rank.resize(ranks_ * ranks_);
    for (int from = 0; from < layout_.hosts(); ++from) {
      for (std::size_t lane = 0; lane < ranks_; ++lane) {
        const auto visit = [&](int s, int d, ByteRange range, std::size_t at) {
          const std::size_t receiver = LocalOf(d);
          hand_out.bytes_per_rank[lane * ranks_ + receiver] += range.bytes();
          if (receiver == static_cast<std::size_t>(local_)) {
            outputs[lane].Add(call.outputs[static_cast<std::size_t>(s)], range);
          }
          if (lane == static_cast<std::size_t>(local_)) {
            inputs[receiver].Add(
                arriving[static_cast<std::size_t>(from)].subspan(at, range.bytes()));
          }
        };
        plan_.ForBlocks(from, host_, step_, static_cast<int>(lane), visit);
      }
    }
    hand_out.inputs = Taken(inputs);
    hand_out.outputs = Taken(outputs);
  }

  const HostLayout& layout_;
  const AlltoallPlan& plan_;
  const std::uint64_t step_;
  const int host_;
  const int local_;
  const std::size_t ranks_;  // of this host
};

}  // namespace

Status HierarchicalBackend::Alltoall(CollectiveCall& call) {
  if (Status status = AlltoallInside(call); !status.ok()) return status;
  const AlltoallPlan plan(layout_, call);
  for (std::uint64_t step = 0; step < plan.steps(); ++step) {
    AlltoallStep calls = StepOfRank(layout_, rank_, plan, step).Make(call, scratch_);
    Status status = inside_->Execute(calls.collect);
    if (status.ok() && has_lane()) status = across_->Execute(calls.across);
    if (status.ok()) status = inside_->Execute(calls.hand_out);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

// What stays on this host.
Status HierarchicalBackend::AlltoallInside(CollectiveCall& call) {
  CollectiveCall inside = PartialCall(call, OpKind::kAlltoall, local_size());
  const int first = layout_.first_of(host_);
  for (int s = first; s < first + local_size(); ++s) {
    for (int d = first; d < first + local_size(); ++d) {
      inside.bytes_per_rank.push_back(
          call.bytes_per_rank[static_cast<std::size_t>(s * layout_.size() + d)]);
    }
    inside.inputs.push_back(call.inputs[static_cast<std::size_t>(s)]);
    inside.outputs.push_back(call.outputs[static_cast<std::size_t>(s)]);
  }
  return inside_->Execute(inside);
}

}  // namespace hora

// Collectives of several hosts: inside each by one backend, between them by another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "hora/collectives/collective_backend.h"
#include "hora/tensor/host_layout.h"

namespace hora {

// A large allreduce is a reduce-scatter inside each host, an allreduce of its slice by each lane
// across the hosts, and an allgather inside: each host's link carries 2(H−1)/H of the bytes, once.
// Lane k are the ranks with local rank k, on all hosts (HostLayout::lanes of them, so that every
// host takes part in each); ranks beyond help inside only. Small ones are reduced inside, exchanged
// by lane 0 and broadcast inside. The other operations follow the same three steps: no byte crosses
// between two hosts twice. Long ones are cut into pieces: no scratch memory grows with the message.
//
// Sums of floats are formed of the hosts' sums, each rounded to the type. Where more than that
// would show (averages and scaled sums of integers, 8-bit floats, scaled ends and products of
// 16-bit ones) and where ranks are absent, the operands themselves meet, slice by slice, in the
// order of the ranks.
//
// Memory of a device, where both backends take that: allreduces that need not be exact, allgathers
// and broadcasts; the others look at the bytes themselves.
//
// Owns both backends; threads, blocking and failure are theirs. After a failure every later call
// returns the same status.
class HierarchicalBackend final : public CollectiveBackend {
 public:
  // What a lane has under way at once.
  static constexpr std::uint64_t kLanePieceBytes = 4u << 20;

  // `inside` has the ranks of this host, by local rank, and is one that reduces its own slice where
  // it lies (ShmBackend). `across` has the hosts as its ranks, and is null on a rank without a
  // lane.
  HierarchicalBackend(HostLayout layout, int rank, std::unique_ptr<CollectiveBackend> inside,
                      std::unique_ptr<CollectiveBackend> across,
                      std::uint64_t lane_piece_bytes = kLanePieceBytes);

  std::string_view name() const override { return "hierarchical"; }
  bool Supports(const OpParams& params) const override;
  void Retune(const Tuning& tuning) override;
  Status Execute(CollectiveCall& call) override;

 private:
  Status Run(CollectiveCall& call);
  Status Allreduce(CollectiveCall& call);
  Status SmallAllreduce(CollectiveCall& call);
  Status ExactAllreduce(CollectiveCall& call);
  Status ExactReducescatter(CollectiveCall& call);
  Status Allgather(CollectiveCall& call);
  Status Broadcast(CollectiveCall& call);
  Status Reducescatter(CollectiveCall& call);
  Status Alltoall(CollectiveCall& call);
  Status AlltoallInside(CollectiveCall& call);

  int local_size() const { return layout_.size_of(host_); }
  bool has_lane() const { return local_ < lanes_; }

  const HostLayout layout_;
  const int rank_;
  const int host_;
  const int local_;
  const int lanes_;
  const std::uint64_t lane_piece_bytes_;
  std::unique_ptr<CollectiveBackend> inside_;
  std::unique_ptr<CollectiveBackend> across_;
  std::uint64_t small_bytes_ = 0;
  std::vector<std::byte> scratch_;   // of a piece; kept
  std::vector<std::byte> operands_;  // of an exact reduction; kept
  Status failure_;
};

}  // namespace hora

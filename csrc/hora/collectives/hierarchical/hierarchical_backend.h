// Collectives of several hosts: inside each by one backend, between them by another.
#pragma once

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
// between two hosts twice. Long ones are cut into pieces, so that the steps of several overlap and
// no scratch memory grows with the message.
//
// Owns both backends; threads, blocking and failure are theirs.
class HierarchicalBackend final : public CollectiveBackend {
 public:
  // `inside` has the ranks of this host, by local rank; `across` has the hosts as its ranks, and is
  // null on a rank without a lane.
  HierarchicalBackend(HostLayout layout, int rank, std::unique_ptr<CollectiveBackend> inside,
                      std::unique_ptr<CollectiveBackend> across);

  std::string_view name() const override { return "hierarchical"; }
  bool Supports(const OpParams& params) const override;
  void Retune(const Tuning& tuning) override;
  Status Execute(CollectiveCall& call) override;

 private:
  Status Allreduce(CollectiveCall& call);
  Status Allgather(CollectiveCall& call);
  Status Broadcast(CollectiveCall& call);
  Status Reducescatter(CollectiveCall& call);
  Status Alltoall(CollectiveCall& call);

  const HostLayout layout_;
  const int rank_;
  std::unique_ptr<CollectiveBackend> inside_;
  std::unique_ptr<CollectiveBackend> across_;
  std::vector<std::byte> scratch_;  // of a piece; kept
};

}  // namespace hora

// GPU tensors over several hosts: by links between GPUs inside each, by another engine across.
#pragma once

#include <memory>
#include <string_view>

#include "hora/collectives/collective_backend.h"
#include "hora/collectives/hierarchical/hierarchical_backend.h"
#include "hora/tensor/host_layout.h"

namespace hora {

// Allreduces, allgathers and broadcasts go in layers, as HierarchicalBackend does them on the host:
// what crosses between hosts crosses once, and is staged by each lane for its own part only. What
// the layers cannot do (exact reductions, absent ranks, reducescatter, alltoall, Adasum) goes
// through `whole`. Which way is taken follows from what the ranks have agreed on.
//
// Owns the layers' backends, borrows `whole`. Threads, blocking and failure are theirs.
class DeviceHierarchy final : public CollectiveBackend {
 public:
  // All of them take memory of the device. `inside` has the ranks of this host, by local rank (one
  // that leaves what it gets on call.stream: NCCL); `across` the hosts, null on a rank without a
  // lane; `whole` all ranks.
  DeviceHierarchy(HostLayout layout, int rank, std::unique_ptr<CollectiveBackend> inside,
                  std::unique_ptr<CollectiveBackend> across, CollectiveBackend& whole);

  std::string_view name() const override { return "hierarchical-device"; }
  bool Supports(const OpParams& params) const override { return whole_.Supports(params); }
  void Retune(const Tuning& tuning) override { layers_.Retune(tuning); }
  Status Execute(CollectiveCall& call) override;

 private:
  bool GoesInLayers(const CollectiveCall& call) const;

  const bool has_layers_;
  CollectiveBackend& inside_;  // owned by layers_
  HierarchicalBackend layers_;
  CollectiveBackend& whole_;
};

}  // namespace hora

// The control tree as seen by one rank: bytes on links to messages of the negotiator and back.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "hora/base/status.h"
#include "hora/control/link.h"
#include "hora/negotiation/negotiator.h"
#include "hora/tensor/rank_names.h"

namespace hora {

// Owns the links to the parent and the children. Progress context only; nothing blocks.
class ControlPlane {
 public:
  struct Edge {
    int neighbour = -1;
    std::unique_ptr<Link> link;
    bool to_child = true;
  };

  // `names` says what errors call the neighbours.
  explicit ControlPlane(std::vector<Edge> edges, RankNames names = {})
      : edges_(std::move(edges)), names_(std::move(names)) {}

  // Any thread: true when Receive or Flush has something to do.
  bool NeedsAttention() const;
  // Any thread that is about to sleep, so that what arrives from other hosts wakes it.
  void Arm();

  // Feeds everything that has arrived to the negotiator. Not OK: a neighbour sends nonsense.
  Status Receive(Negotiator& negotiator, TimePoint now);
  Status Send(std::span<const NegotiatorActions::Outgoing> outgoing);
  bool Flush();  // true when nothing is left to send
  bool FlushToChildren();

 private:
  std::vector<Edge> edges_;
  RankNames names_;
  std::vector<std::byte> frame_;  // reused, so that the steady state does not allocate
};

}  // namespace hora

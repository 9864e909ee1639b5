// A whole tree in lockstep, message by message: what a round costs each of its nodes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "hora/negotiation/negotiator.h"

namespace hora::sim {

// What a message takes. A node handles one message at a time, be it to send or to receive it.
struct HopCost {
  double latency_us = 10;
  double handling_us = 1;
  double bytes_per_us = 10e3;

  double TransferUs(std::size_t bytes) const {
    return latency_us + static_cast<double>(bytes) / bytes_per_us;
  }
};

// Real negotiators for all ranks, from the last one to the first and back: a node hears its
// children, submits every tensor, and tells its parent. A message passes through the codec and is
// delivered at once, so that memory is the negotiators' own. One thread.
class Lockstep {
 public:
  struct Node {
    std::uint32_t received = 0;  // messages of the last round
    std::uint32_t sent = 0;
    std::uint64_t bytes = 0;  // of both
    std::uint32_t depth = 0;
    double ready_us = 0;    // since the submissions, its whole subtree has reported
    double decided_us = 0;  // it knows what to do
  };

  Lockstep(int size, int fan_out, int tensors, HopCost cost = {});

  // Every rank submits every tensor; throws unless every rank then executes each of them once.
  void Round();

  int size() const { return static_cast<int>(nodes_.size()); }
  const Node& node(int rank) const { return nodes_[static_cast<std::size_t>(rank)]; }
  int depth() const;
  double decision_us() const;  // until the last rank knows
  // The most that `hops` hops through nodes of this fan-out can take with such messages.
  double LimitUs(int hops) const;
  void Drop(int rank) { negotiators_[static_cast<std::size_t>(rank)].reset(); }

 private:
  Negotiator& negotiator(int rank) { return *negotiators_[static_cast<std::size_t>(rank)]; }
  Node& node_of(int rank) { return nodes_[static_cast<std::size_t>(rank)]; }
  void Up(int rank);
  void Down(int rank);
  void Send(int from, const NegotiatorActions::Outgoing& outgoing, double& clock_us);

  int fan_out_;
  HopCost cost_;
  std::vector<Request> requests_;
  std::vector<std::unique_ptr<Negotiator>> negotiators_;
  std::vector<Node> nodes_;
  std::size_t largest_message_ = 0;  // of the last round
  NegotiatorActions actions_;
  std::vector<std::byte> frame_;
};

}  // namespace hora::sim

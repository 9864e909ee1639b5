#include "sim/lockstep.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "hora/base/format.h"
#include "hora/wire/codec.h"

namespace hora::sim {

Lockstep::Lockstep(int size, int fan_out, int tensors, HopCost cost)
    : fan_out_(fan_out), cost_(cost), nodes_(static_cast<std::size_t>(size)) {
  for (int i = 0; i < tensors; ++i) {
    requests_.push_back(
        {.name = fmt::format("model.layers.{}.weight.grad", i), .params = {.shape = {1024, 256}}});
  }
  for (int rank = 0; rank < size; ++rank) {
    NegotiatorOptions options{.position = TreePosition::Of(rank, size, fan_out)};
    if (rank != 0) node_of(rank).depth = node(options.position.parent).depth + 1;
    negotiators_.push_back(std::make_unique<Negotiator>(std::move(options)));
  }
}

void Lockstep::Round() {
  largest_message_ = 0;
  for (Node& each : nodes_) each = {.depth = each.depth};
  // A child has a larger number than its parent.
  for (int rank = size() - 1; rank > 0; --rank) Up(rank);
  for (int rank = 0; rank < size(); ++rank) Down(rank);
  actions_.clear();  // what is in it belongs to the last rank
}

void Lockstep::Up(int rank) {
  for (const Request& request : requests_) negotiator(rank).Submit(request, TimePoint());
  negotiator(rank).Take(actions_);
  double clock_us = node(rank).ready_us;
  for (const auto& outgoing : actions_.send) Send(rank, outgoing, clock_us);
}

void Lockstep::Down(int rank) {
  if (rank == 0) {
    for (const Request& request : requests_) negotiator(rank).Submit(request, TimePoint());
    node_of(rank).decided_us = node(rank).ready_us;
  }
  negotiator(rank).Take(actions_);
  if (!actions_.failure.ok()) throw std::runtime_error(actions_.failure.ToString());
  if (actions_.execute.size() != requests_.size()) {
    throw std::runtime_error(fmt::format("rank {} executes {} of {} tensors", rank,
                                         actions_.execute.size(), requests_.size()));
  }
  double clock_us = node(rank).decided_us;
  for (const auto& outgoing : actions_.send) Send(rank, outgoing, clock_us);
}

// `clock_us` is the sender's. Whoever receives is busy with earlier messages until the time that
// stands in its node.
void Lockstep::Send(int from, const NegotiatorActions::Outgoing& outgoing, double& clock_us) {
  if (Status status = Encode(outgoing.message, frame_); !status.ok()) {
    throw std::runtime_error(status.ToString());
  }
  largest_message_ = std::max(largest_message_, frame_.size());
  Node& sender = node_of(from);
  Node& receiver = node_of(outgoing.neighbour);
  ++sender.sent;
  ++receiver.received;
  sender.bytes += frame_.size();
  receiver.bytes += frame_.size();
  clock_us += cost_.handling_us;
  double& busy_us = outgoing.neighbour < from ? receiver.ready_us : receiver.decided_us;
  busy_us = std::max(busy_us, clock_us + cost_.TransferUs(frame_.size())) + cost_.handling_us;
  negotiator(outgoing.neighbour).Receive(from, std::move(*Decode(frame_)), TimePoint());
}

int Lockstep::depth() const {
  return static_cast<int>(std::ranges::max_element(nodes_, {}, &Node::depth)->depth);
}

double Lockstep::decision_us() const {
  return std::ranges::max_element(nodes_, {}, &Node::decided_us)->decided_us;
}

double Lockstep::LimitUs(int hops) const {
  return hops * (cost_.TransferUs(largest_message_) + (fan_out_ + 1) * cost_.handling_us);
}

}  // namespace hora::sim

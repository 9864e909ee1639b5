// Which named tensors are ready on every rank: a pure state machine, events in, actions out.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hora/base/clock.h"
#include "hora/negotiation/tree_position.h"
#include "hora/wire/control_message.h"

namespace hora {

struct NegotiatorOptions {
  TreePosition position;
  std::uint32_t cache_capacity = 4096;            // equal on all ranks
  Duration stall_warning = std::chrono::seconds(10);
  Duration stall_abort = std::chrono::seconds(300);
};

// What the caller must do after feeding events, in this order: send, then execute, then log/fail.
struct NegotiatorActions {
  struct Outgoing {
    int neighbour = -1;         // parent or child rank
    ControlMessage message;
    bool urgent = false;        // wake the neighbour even if it waits for nothing itself
  };
  std::vector<Outgoing> send;
  std::vector<Response> execute;            // agreed, in the order that is the same on every rank
  std::vector<StallSummary> stalled;        // to be logged
  std::vector<std::pair<std::string, Status>> reject;  // own pending names that can never be agreed
  Status failure;                           // not OK: fail closed, nothing else will be agreed

  bool empty() const;
  void clear();
};

// Owns the readiness table, the response cache and the stall detector of one rank. Holds no thread,
// socket or clock: one caller at a time, `now` is passed in, the same inputs give the same outputs.
// Nothing blocks. An impossible message from a neighbour sets `failure`.
//
// Every rank reports a name to its parent once its whole subtree has submitted it, so that a node
// handles O(fan-out) messages per round, and a node that has submitted nothing itself never has
// anything urgent to do. The root agrees on a name when all its contributors have reported.
class Negotiator {
 public:
  explicit Negotiator(NegotiatorOptions options);
  ~Negotiator();
  Negotiator(const Negotiator&) = delete;
  Negotiator& operator=(const Negotiator&) = delete;

  // This rank has submitted `request`; its name is not pending here (the queue checks that).
  void Submit(Request request, TimePoint now);

  // A message from the parent or a child.
  void Receive(int neighbour, ControlMessage message, TimePoint now);

  // Time has come for what NextDeadline announced.
  void Tick(TimePoint now);
  TimePoint NextDeadline() const;  // TimePoint::max(): nothing to wait for

  // This rank shuts down: tells the neighbours; Submit must not be called afterwards.
  void Leave();

  // Collects what the events since the last call require: one Readiness to the parent for all
  // Submits, one Agreement to the children for all that became ready.
  void Take(NegotiatorActions& actions);

  // Names submitted here and not yet agreed.
  std::size_t pending_count() const;
  std::size_t cached_count() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hora

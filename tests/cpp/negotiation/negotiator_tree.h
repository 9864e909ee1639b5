// N negotiators joined by queues, one event at a time: the plain world of the unit tests.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hora/negotiation/negotiator.h"
#include "hora/wire/codec.h"

namespace hora {

// Messages pass through the codec, in order per edge. Not delivered until Settle.
class NegotiatorTree {
 public:
  struct Outcome {
    std::vector<Response> executed;
    std::vector<std::pair<std::size_t, Tuning>> tunings;  // before which response
    std::vector<StallSummary> stalled;
    std::map<std::string, Status> rejected;
    Status failure;
    int messages_sent = 0;
  };

  explicit NegotiatorTree(int size, NegotiatorOptions options = {}, int fan_out = 2)
      : outcomes_(static_cast<std::size_t>(size)) {
    for (int rank = 0; rank < size; ++rank) {
      options.position = TreePosition::Of(rank, size, fan_out);
      ranks_.push_back(std::make_unique<Negotiator>(options));
    }
  }

  Negotiator& operator[](int rank) { return *ranks_[static_cast<std::size_t>(rank)]; }
  Outcome& outcome(int rank) { return outcomes_[static_cast<std::size_t>(rank)]; }
  int size() const { return static_cast<int>(ranks_.size()); }
  TimePoint now() const { return now_; }

  void Submit(int rank, Request request) { (*this)[rank].Submit(std::move(request), now_); }
  void SubmitEverywhere(const Request& request) {
    for (int rank = 0; rank < size(); ++rank) Submit(rank, request);
  }

  // Until no message is under way.
  void Settle() {
    bool moved = true;
    while (moved) {
      moved = false;
      for (int rank = 0; rank < size(); ++rank) Take(rank);
      for (auto& [edge, queue] : edges_) {
        while (!queue.empty()) {
          ControlMessage message = std::move(queue.front());
          queue.pop_front();
          (*this)[edge.second].Receive(edge.first, std::move(message), now_);
          moved = true;
        }
      }
    }
  }

  // Lets time pass, with every deadline met on the way.
  void Advance(Duration by) {
    const TimePoint end = now_ + by;
    while (true) {
      TimePoint next = end;
      for (auto& rank : ranks_) next = std::min(next, rank->NextDeadline());
      now_ = std::max(now_, next);
      for (auto& rank : ranks_) {
        if (rank->NextDeadline() <= now_) rank->Tick(now_);
      }
      Settle();
      if (now_ >= end) return;
    }
  }

  void Take(int rank) {
    NegotiatorActions actions;
    (*this)[rank].Take(actions);
    Outcome& out = outcome(rank);
    for (auto& [neighbour, message, urgent] : actions.send) {
      std::vector<std::byte> frame;
      EXPECT_TRUE(Encode(message, frame).ok());
      Result<ControlMessage> decoded = Decode(frame);
      ASSERT_TRUE(decoded.has_value()) << decoded.error().ToString();
      EXPECT_EQ(*decoded, message);
      edges_[{rank, neighbour}].push_back(std::move(*decoded));
      ++out.messages_sent;
    }
    for (const auto& [first, tuning] : actions.tunings) {
      out.tunings.emplace_back(out.executed.size() + first, tuning);
    }
    for (const Agreed& agreed : actions.execute) out.executed.push_back(*agreed);
    for (auto& summary : actions.stalled) out.stalled.push_back(std::move(summary));
    for (auto& [name, status, entry] : actions.reject) out.rejected[name] = status;
    if (!actions.failure.ok()) out.failure = actions.failure;
  }

 private:
  std::vector<std::unique_ptr<Negotiator>> ranks_;
  std::vector<Outcome> outcomes_;
  std::map<std::pair<int, int>, std::deque<ControlMessage>> edges_;
  TimePoint now_{};
};

inline Request Allreduce(std::string name, Shape shape = {4}) {
  return {.name = std::move(name), .params = {.shape = std::move(shape)}};
}

inline Request Allgather(std::string name, std::int64_t rows, std::int64_t columns = 3) {
  return {.name = std::move(name),
          .params = {.kind = OpKind::kAllgather, .shape = {0, columns}},
          .first_dims = {rows}};
}

inline Request Broadcast(std::string name, int root, Shape shape = {4}) {
  return {.name = std::move(name),
          .params = {.kind = OpKind::kBroadcast, .root_rank = root, .shape = std::move(shape)}};
}

}  // namespace hora

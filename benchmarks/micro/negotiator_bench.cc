// What agreeing costs: the negotiator and the codec, without links and threads.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "hora/base/check.h"
#include "hora/negotiation/negotiator.h"
#include "hora/wire/codec.h"

namespace hora {
namespace {

// Two ranks whose messages pass through bytes, as they do on a link.
class Pair {
 public:
  explicit Pair(int names)
      : root_({.position = TreePosition::Of(0, 2, 8)}),
        leaf_({.position = TreePosition::Of(1, 2, 8)}) {
    for (int i = 0; i < names; ++i) {
      requests_.push_back({.name = "transformer.layer." + std::to_string(i) + ".weight.grad",
                           .params = {.shape = {1024, 256}}});
    }
    Round();
  }

  // Every name once: two messages in all.
  void Round() {
    for (const Request& request : requests_) {
      root_.Submit(request, TimePoint());
      leaf_.Submit(request, TimePoint());
    }
    leaf_.Take(leaf_actions_);
    Deliver(leaf_actions_, 1, root_);
    root_.Take(root_actions_);
    Deliver(root_actions_, 0, leaf_);
    leaf_.Take(leaf_actions_);
    Check(root_actions_.execute.size() == requests_.size(), "the root executes every name");
    Check(leaf_actions_.execute.size() == requests_.size(), "the leaf executes every name");
  }

 private:
  void Deliver(const NegotiatorActions& actions, int from, Negotiator& to) {
    for (const auto& outgoing : actions.send) {
      Check(Encode(outgoing.message, frame_).ok(), "a message can be encoded");
      to.Receive(from, std::move(*Decode(frame_)), TimePoint());
    }
  }

  Negotiator root_;
  Negotiator leaf_;
  std::vector<Request> requests_;
  NegotiatorActions root_actions_;
  NegotiatorActions leaf_actions_;
  std::vector<std::byte> frame_;
};

// Both ranks and both messages; items are names.
void CachedRound(benchmark::State& state) {
  Pair pair(static_cast<int>(state.range(0)));
  for ([[maybe_unused]] auto step : state) pair.Round();
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(CachedRound)->Arg(1)->Arg(161);

void EncodeOneBit(benchmark::State& state) {
  const ControlMessage message = Readiness{.agreements_seen = 1000, .cached = SlotSet::Of(17)};
  std::vector<std::byte> frame;
  for ([[maybe_unused]] auto step : state) {
    benchmark::DoNotOptimize(Encode(message, frame));
    benchmark::DoNotOptimize(frame.data());
  }
}
BENCHMARK(EncodeOneBit);

void DecodeOneBit(benchmark::State& state) {
  std::vector<std::byte> frame;
  const ControlMessage message = Readiness{.agreements_seen = 1000, .cached = SlotSet::Of(17)};
  Check(Encode(message, frame).ok(), "a message can be encoded");
  for ([[maybe_unused]] auto step : state) benchmark::DoNotOptimize(Decode(frame));
}
BENCHMARK(DecodeOneBit);

}  // namespace
}  // namespace hora

BENCHMARK_MAIN();

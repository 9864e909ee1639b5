// A step's worth of small named tensors through two whole engines, from the first submission to the
// last handle: what negotiating costs where data hardly matters.
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hora/base/check.h"
#include "hora/control/local_group.h"
#include "hora/engine/engine.h"
#include "hora/engine/job_settings.h"

namespace hora {
namespace {

constexpr int kRanks = 2;

// One rank and its tensors.
class Rank {
 public:
  Rank(int rank, HostGroup group, std::int64_t tensors, std::int64_t elements)
      : data_(static_cast<std::size_t>(tensors),
              std::vector<float>(static_cast<std::size_t>(elements))) {
    const Topology topology{.rank = rank, .size = kRanks, .local_rank = rank, .local_size = kRanks};
    auto engine = Engine::Start(topology, {}, std::move(group));
    Check(engine.has_value(), "an engine starts");
    engine_ = std::move(*engine);
    for (std::int64_t i = 0; i < tensors; ++i) {
      names_.push_back("model.layers." + std::to_string(i) + ".weight.grad");
    }
  }

  // False when the other rank has left. `all_wait`: as blocking callers submit, who wake nobody.
  bool Burst(bool all_wait) {
    ProcessSet& set = engine_->global();
    handles_.clear();
    for (std::size_t i = 0; i < names_.size(); ++i) {
      handles_.push_back(std::make_shared<Handle>(names_[i]));
      if (!set.Submit(EntryOf(i), all_wait).ok()) return false;
    }
    const TimePoint submitted = SteadyClock::Instance().Now();
    const TimePoint deadline = submitted + std::chrono::seconds(30);
    for (const auto& handle : handles_) {
      while (!handle->done()) {
        Check(set.Wait(*handle, deadline) != WakeReason::kDeadline, "a burst ends");
      }
      if (!handle->status().ok()) return false;
    }
    waited_ += SteadyClock::Instance().Now() - submitted;
    return true;
  }

  // From the last submission to the last handle: negotiating and executing, over all bursts.
  double waited_us() const { return std::chrono::duration<double, std::micro>(waited_).count(); }

 private:
  TensorEntry EntryOf(std::size_t i) {
    const Shape shape{static_cast<std::int64_t>(data_[i].size())};
    TensorEntry entry;
    entry.request.name = names_[i];
    entry.request.params.shape = shape;
    entry.input = {.data = reinterpret_cast<std::byte*>(data_[i].data()),
                   .dtype = DType::kFloat32,
                   .device = {},
                   .shape = shape};
    entry.output = entry.input;
    entry.handle = handles_[i];
    return entry;
  }

  std::vector<std::vector<float>> data_;
  std::vector<std::string> names_;
  std::vector<std::shared_ptr<Handle>> handles_;
  Duration waited_{};
  Engine::Owner engine_;
};

// Arguments: tensors, elements of each, whether nobody is woken. Rank 0 is timed; rank 1, a thread,
// does the same for as long as there is somebody to do it with.
void Burst(benchmark::State& state) {
  auto groups = MakeLocalGroup(kRanks, TunablesOf({}));
  auto first = std::make_unique<Rank>(0, std::move(groups[0]), state.range(0), state.range(1));
  std::thread second([&, group = std::move(groups[1])]() mutable {
    Rank rank(1, std::move(group), state.range(0), state.range(1));
    while (rank.Burst(state.range(2) != 0)) {
    }
  });
  for (int warm_up = 0; warm_up < 20; ++warm_up) first->Burst(state.range(2) != 0);
  const double before = first->waited_us();
  for ([[maybe_unused]] auto step : state) first->Burst(state.range(2) != 0);
  state.counters["after_submitting_us"] =
      benchmark::Counter(first->waited_us() - before, benchmark::Counter::kAvgIterations);
  state.SetItemsProcessed(state.iterations() * state.range(0));
  first.reset();
  second.join();
}
BENCHMARK(Burst)
    ->ArgNames({"tensors", "elements", "all_wait"})
    ->Args({1, 1, 1})
    ->Args({161, 1, 1})
    ->Args({161, 1, 0})
    ->Args({500, 64, 1})
    ->Args({500, 64, 0})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
}  // namespace hora

BENCHMARK_MAIN();

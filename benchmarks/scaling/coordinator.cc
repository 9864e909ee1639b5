// What it costs the root, and how long it takes, to agree among very many ranks: real negotiators
// for all of them in one process, no network; see tests/cpp/sim/lockstep.h for how time is counted.
//
//   coordinator [--max-ranks=131072] [--latency-us=10] [--handling-us=1] [--bytes-per-us=10000]
//
// JSON lines on standard output, one for each number of ranks and fan-out, progress on standard
// error.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <span>
#include <string_view>
#include <utility>

#include "hora/base/format.h"
#include "live_bytes.h"
#include "sim/lockstep.h"

namespace hora {
namespace {

constexpr int kRanks[] = {2, 8, 32, 128, 512, 2048, 8192, 32768, 131072};
constexpr int kFanOuts[] = {2, 4, 8, 16, 32, 64};
// All names of a job are in all negotiators, which share this machine's memory; the more ranks, the
// fewer of them fit.
constexpr std::int64_t kRankTensors = 1 << 20;
constexpr std::int64_t kMostTensors = 161;

struct Options {
  int max_ranks = 131072;
  sim::HopCost cost;
};

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Frees the negotiators one by one to see what each of them held.
struct Memory {
  std::size_t root = 0;
  std::size_t most = 0;
  std::size_t last = 0;  // a leaf
  std::size_t all = 0;
};

Memory Measure(sim::Lockstep& world) {
  Memory memory;
  for (int rank = 0; rank < world.size(); ++rank) {
    const std::size_t before = LiveBytes();
    world.Drop(rank);
    memory.last = before - LiveBytes();
    if (rank == 0) memory.root = memory.last;
    memory.most = std::max(memory.most, memory.last);
    memory.all += memory.last;
  }
  return memory;
}

std::string RoundText(std::string_view round, const sim::Lockstep& world) {
  const sim::Lockstep::Node& root = world.node(0);
  return fmt::format(
      "\"{0}_root_received\": {1}, \"{0}_root_sent\": {2}, \"{0}_root_bytes\": {3}, "
      "\"{0}_decision_us\": {4:.3f}, \"{0}_limit_us\": {5:.3f}",
      round, root.received, root.sent, root.bytes, world.decision_us(),
      world.LimitUs(2 * world.depth()));
}

void Run(int ranks, int fan_out, const Options& options) {
  const double began = Seconds();
  const auto tensors =
      static_cast<int>(std::clamp<std::int64_t>(kRankTensors / ranks / 8, 1, kMostTensors));
  sim::Lockstep world(ranks, fan_out, tensors, options.cost);
  world.Round();
  const std::string first = RoundText("first", world);
  world.Round();  // builds up what the steady state keeps
  const double before = Seconds();
  world.Round();
  const double seconds = Seconds() - before;
  const std::string steady = RoundText("steady", world);
  const int depth = world.depth();
  const Memory memory = Measure(world);
  fmt::print(
      "{{\"benchmark\": \"coordinator\", \"ranks\": {}, \"fan_out\": {}, \"tensors\": {}, "
      "\"depth\": {}, {}, {}, \"rank_bytes\": {}, \"root_rank_bytes\": {}, "
      "\"leaf_rank_bytes\": {}, \"most_rank_bytes\": {}, "
      "\"steady_ns_per_rank_and_tensor\": {:.1f}, "
      "\"latency_us\": {}, \"handling_us\": {}, \"bytes_per_us\": {}}}\n",
      ranks, fan_out, tensors, depth, first, steady, memory.all / static_cast<std::size_t>(ranks),
      memory.root, memory.last, memory.most, seconds * 1e9 / ranks / tensors,
      options.cost.latency_us, options.cost.handling_us, options.cost.bytes_per_us);
  std::fflush(stdout);
  fmt::print(stderr, "\r\033[K{} ranks, fan-out {}, {} tensors: {:.1f} s", ranks, fan_out, tensors,
             Seconds() - began);
}

template <class T>
bool Parse(std::string_view argument, std::string_view name, T& value) {
  if (!argument.starts_with(name)) return false;
  const std::string_view text = argument.substr(name.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

int Main(std::span<char*> arguments) {
  Options options;
  for (const std::string_view argument : arguments) {
    const bool known = Parse(argument, "--max-ranks=", options.max_ranks) ||
                       Parse(argument, "--latency-us=", options.cost.latency_us) ||
                       Parse(argument, "--handling-us=", options.cost.handling_us) ||
                       Parse(argument, "--bytes-per-us=", options.cost.bytes_per_us);
    if (known) continue;
    fmt::print(stderr, "coordinator: what is '{}'? See the top of its source.\n", argument);
    return 2;
  }
  for (const int ranks : kRanks) {
    for (const int fan_out : kFanOuts) {
      if (ranks <= options.max_ranks) Run(ranks, fan_out, options);
    }
  }
  fmt::print(stderr, "\n");
  return 0;
}

}  // namespace
}  // namespace hora

int main(int argc, char** argv) {
  return hora::Main(std::span(argv, static_cast<std::size_t>(argc)).subspan(1));
}

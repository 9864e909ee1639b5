// Time of a collective between the ranks of one host, without negotiation: processes over one
// board, pinned to cores, fp32 sum in place. Rates in GB/s, as nccl-tests defines them.
//
// usage: shm_allreduce_bench [ranks=2] [window_kib=256] [max_mib=64]
// [op=allreduce|broadcast|allgather]

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "hora/collectives/shm/shm_backend.h"

namespace hora {
namespace {

constexpr std::size_t kKiB = 1024, kMiB = 1024 * kKiB;
constexpr std::size_t kSizes[] = {4,         kKiB,      2 * kKiB,  4 * kKiB,   8 * kKiB,
                                  16 * kKiB, 32 * kKiB, 64 * kKiB, 256 * kKiB, kMiB,
                                  4 * kMiB,  16 * kMiB, 64 * kMiB};

struct Setup {
  int ranks = 2;
  std::size_t window_bytes = 256u << 10;
  std::size_t max_bytes = 64u << 20;
  OpKind kind = OpKind::kAllreduce;
};

// Ranks on cores of their own where there are enough of them.
void PinTo(int rank) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(rank % UsableCores(), &cores);
  sched_setaffinity(0, sizeof(cores), &cores);
}

CollectiveCall CallOf(const Setup& setup, int rank, std::span<std::byte> memory,
                      std::span<std::byte> gathered) {
  CollectiveCall call;
  call.params.kind = setup.kind;
  call.params.root_rank = 0;
  call.size = setup.ranks;
  call.bytes_per_rank = {memory.size()};
  call.inputs.push_back(ByteStream({memory}));
  if (setup.kind != OpKind::kAllgather) {
    call.outputs.push_back(call.inputs[0]);
    return call;
  }
  call.bytes_per_rank.assign(static_cast<std::size_t>(setup.ranks), memory.size());
  for (int q = 0; q < setup.ranks; ++q) {
    const auto part = gathered.subspan(static_cast<std::size_t>(q) * memory.size(), memory.size());
    call.outputs.push_back(q == rank ? call.inputs[0] : ByteStream({part}));
  }
  return call;
}

// Microseconds per call; several calls per sample where one is shorter than the clock is exact.
std::vector<double> Measure(ShmBackend& backend, CollectiveCall& call, std::size_t bytes) {
  const int per_sample = bytes <= 4096 ? 50 : bytes <= 65536 ? 10 : 1;
  const int samples = bytes <= (1u << 20) ? 400 : bytes <= (16u << 20) ? 60 : 25;
  std::vector<double> times;
  for (int sample = -samples / 10 - 2; sample < samples; ++sample) {
    const TimePoint start = SteadyClock::Instance().Now();
    for (int i = 0; i < per_sample; ++i) {
      if (const Status status = backend.Execute(call); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        std::exit(1);
      }
    }
    const std::chrono::duration<double, std::micro> spent = SteadyClock::Instance().Now() - start;
    if (sample >= 0) times.push_back(spent.count() / per_sample);
  }
  std::sort(times.begin(), times.end());
  return times;
}

void RunRank(const Setup& setup, std::shared_ptr<Board> board, int rank) {
  const WaitPolicy wait = WaitPolicy::For(setup.ranks, UsableCores());
  PinTo(rank);
  ShmBackend backend(std::move(board), {.rank = rank, .wait = wait});
  const int copies = setup.kind == OpKind::kAllgather ? setup.ranks : 1;
  std::vector<std::byte> memory(setup.max_bytes), gathered(setup.max_bytes * copies);
  if (rank == 0) {
    std::printf("%12s %12s %12s %10s %10s\n", "bytes", "median us", "min us", "algbw", "busbw");
  }
  for (const std::size_t bytes : kSizes) {
    if (bytes > setup.max_bytes) break;
    CollectiveCall call = CallOf(setup, rank, {memory.data(), bytes}, gathered);
    const std::vector<double> times = Measure(backend, call, bytes);
    if (rank != 0) continue;
    const double median = times[times.size() / 2], rate = static_cast<double>(bytes) / median / 1e3;
    const double bus =
        setup.kind == OpKind::kAllreduce ? 2.0 * (setup.ranks - 1) / setup.ranks : 1.0;
    std::printf("%12zu %12.2f %12.2f %10.2f %10.2f\n", bytes, median, times[0], rate, rate * bus);
    std::fflush(stdout);
  }
}

int Main(int argc, char** argv) {
  const auto number = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  Setup setup;
  setup.ranks = number(1, 2);
  setup.window_bytes = static_cast<std::size_t>(number(2, 256)) << 10;
  setup.max_bytes = static_cast<std::size_t>(number(3, 64)) << 20;
  const std::string kind = argc > 4 ? argv[4] : "allreduce";
  if (kind == "broadcast") setup.kind = OpKind::kBroadcast;
  if (kind == "allgather") setup.kind = OpKind::kAllgather;

  auto board = Board::Create({.size = setup.ranks, .window_bytes = setup.window_bytes});
  if (!board) {
    std::fprintf(stderr, "%s\n", board.error().ToString().c_str());
    return 1;
  }
  std::vector<pid_t> others;
  for (int rank = 1; rank < setup.ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      RunRank(setup, *board, rank);
      std::_Exit(0);
    }
    others.push_back(child);
  }
  RunRank(setup, *board, 0);
  for (const pid_t child : others) waitpid(child, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace hora

int main(int argc, char** argv) { return hora::Main(argc, argv); }

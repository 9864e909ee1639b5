// Time of a collective between the ranks of one host, without negotiation: processes over one
// board, pinned to cores; allreduces are sums, in place unless "apart". Rates in GB/s, as
// nccl-tests defines them, but for an allgather, whose bytes are those of one rank.
//
// usage: shm_allreduce_bench [ranks=2] [window_kib=256] [max_mib=64]
// [op=allreduce|apart|adasum|broadcast|allgather|alltoall|reducescatter] [chunk_kib=0: the default]
// [dtype=float32]

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "hora/collectives/adasum.h"
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
  ReduceOp reduce_op = ReduceOp::kSum;
  std::uint64_t chunk_bytes = 0;
  DType dtype = DType::kFloat32;
  bool in_place = true;
};

Setup WithOp(Setup setup, const std::string& name) {
  setup.in_place = name != "apart";
  if (!setup.in_place) return setup;
  if (name == "adasum") {
    setup.reduce_op = ReduceOp::kAdasum;
    return setup;
  }
  for (int kind = 0; kind < kOpKindCount; ++kind) {
    setup.kind = static_cast<OpKind>(kind);
    const bool moves = setup.kind != OpKind::kBarrier && setup.kind != OpKind::kJoin;
    if (moves && name == ToString(setup.kind)) return setup;
  }
  std::fprintf(stderr, "unknown op '%s'\n", name.c_str());
  std::exit(2);
}

DType DTypeOf(const std::string& name) {
  for (int dtype = 0; dtype < kDTypeCount; ++dtype) {
    if (name == ToString(static_cast<DType>(dtype))) return static_cast<DType>(dtype);
  }
  std::fprintf(stderr, "unknown dtype '%s'\n", name.c_str());
  std::exit(2);
}

// Ranks on cores of their own where there are enough of them.
void PinTo(int rank) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(rank % UsableCores(), &cores);
  sched_setaffinity(0, sizeof(cores), &cores);
}

// Whole elements for each of `ranks`.
std::span<std::byte> PartOf(std::span<std::byte> memory, int rank, int ranks) {
  const std::size_t elements = memory.size() / sizeof(float);
  const auto cut = [&](int r) {
    return elements * static_cast<std::size_t>(r) / static_cast<std::size_t>(ranks) * sizeof(float);
  };
  return memory.subspan(cut(rank), cut(rank + 1) - cut(rank));
}

// Fills in what a rank sends to, or receives from, each of the others.
void Scatter(const Setup& setup, int rank, std::span<std::byte> memory,
             std::span<std::byte> gathered, CollectiveCall& call) {
  const bool all_to_all = setup.kind == OpKind::kAlltoall;
  for (int r = 0; r < setup.ranks; ++r) {
    call.inputs.push_back(ByteStream({PartOf(memory, r, setup.ranks)}));
    const std::size_t own_bytes = PartOf(memory, rank, setup.ranks).size();
    const auto from = gathered.subspan(static_cast<std::size_t>(r) * own_bytes, own_bytes);
    if (all_to_all || r == rank) call.outputs.push_back(ByteStream({from}));
    for (int d = 0; all_to_all && d < setup.ranks; ++d) {
      call.bytes_per_rank.push_back(PartOf(memory, d, setup.ranks).size());
    }
    if (!all_to_all) call.bytes_per_rank.push_back(call.inputs.back().size());
  }
}

CollectiveCall CallOf(const Setup& setup, int rank, std::span<std::byte> memory,
                      std::span<std::byte> gathered) {
  CollectiveCall call;
  call.params.kind = setup.kind;
  call.params.reduce_op = setup.reduce_op;
  call.params.dtype = setup.dtype;
  call.params.root_rank = 0;
  call.size = setup.ranks;
  if (setup.kind == OpKind::kAlltoall || setup.kind == OpKind::kReducescatter) {
    Scatter(setup, rank, memory, gathered, call);
    return call;
  }
  call.bytes_per_rank = {memory.size()};
  call.tensor_bytes = {memory.size()};
  call.inputs.push_back(ByteStream({memory}));
  if (setup.kind != OpKind::kAllgather) {
    call.outputs.push_back(setup.in_place ? call.inputs[0]
                                          : ByteStream({gathered.first(memory.size())}));
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
std::vector<double> Measure(ShmBackend& backend, int rank, CollectiveCall& call,
                            std::size_t bytes) {
  const bool adasum = call.params.reduce_op == ReduceOp::kAdasum;
  const int per_sample = bytes <= 4096 ? 50 : bytes <= 65536 ? 10 : 1;
  const int samples = bytes <= (1u << 20) ? 400 : bytes <= (16u << 20) ? 60 : 25;
  std::vector<double> times;
  for (int sample = -samples / 10 - 2; sample < samples; ++sample) {
    const TimePoint start = SteadyClock::Instance().Now();
    for (int i = 0; i < per_sample; ++i) {
      const Status status = adasum ? RunAdasum(backend, rank, call) : backend.Execute(call);
      if (!status.ok()) {
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

// What each byte means in traffic between ranks.
double BusFactor(const Setup& setup) {
  const double others = static_cast<double>(setup.ranks - 1) / setup.ranks;
  switch (setup.kind) {
    case OpKind::kAllreduce:
      return 2 * others;
    case OpKind::kAlltoall:
    case OpKind::kReducescatter:
      return others;
    default:
      return 1;
  }
}

void RunRank(const Setup& setup, std::shared_ptr<Board> board, int rank) {
  const WaitPolicy wait = WaitPolicy::For(setup.ranks, UsableCores());
  PinTo(rank);
  ShmBackend backend(std::move(board), {.rank = rank, .wait = wait});
  backend.Retune({.chunk_bytes = setup.chunk_bytes, .small_allreduce_bytes = kDefaultSmallBytes});
  const int copies = setup.kind == OpKind::kAllgather ? setup.ranks : 1;
  // Parts of ranks are rounded to elements, so they may sum up to a little more.
  std::vector<std::byte> memory(setup.max_bytes), gathered(setup.max_bytes * copies + kKiB);
  if (rank == 0) {
    std::printf("%12s %12s %12s %10s %10s\n", "bytes", "median us", "min us", "algbw", "busbw");
  }
  for (const std::size_t bytes : kSizes) {
    if (bytes > setup.max_bytes) break;
    CollectiveCall call = CallOf(setup, rank, {memory.data(), bytes}, gathered);
    const std::vector<double> times = Measure(backend, rank, call, bytes);
    if (rank != 0) continue;
    const double median = times[times.size() / 2], rate = static_cast<double>(bytes) / median / 1e3;
    std::printf("%12zu %12.2f %12.2f %10.2f %10.2f\n", bytes, median, times[0], rate,
                rate * BusFactor(setup));
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
  setup.chunk_bytes = static_cast<std::uint64_t>(number(5, 0)) << 10;
  setup.dtype = DTypeOf(argc > 6 ? argv[6] : "float32");
  setup = WithOp(setup, argc > 4 ? argv[4] : "allreduce");

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

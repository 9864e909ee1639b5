// Time of an allreduce between hosts, without negotiation: processes, a rank each, over TCP on the
// loopback interface, in-place sums of floats. Rates in GB/s, as nccl-tests defines them.
//
// usage: tcp_allreduce_bench [ranks=2] [protection=auth|tls] [max_mib=64]

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "hora/collectives/tcp/tcp_backend.h"
#include "hora/net/handshake.h"
#include "hora/net/tcp_socket.h"

namespace hora {
namespace {

constexpr std::size_t kKiB = 1024, kMiB = 1024 * kKiB;
constexpr std::size_t kSizes[] = {4, kKiB, 16 * kKiB, 64 * kKiB, kMiB, 16 * kMiB, 64 * kMiB};

struct Setup {
  int ranks = 2;
  Protection protection = Protection::kChecksum;
  std::size_t max_bytes = 64 * kMiB;
};

template <class T>
T OrExit(Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().ToString().c_str());
  std::exit(1);
}

// A channel to each rank below, by dialling it, and to each above, as it dials.
std::vector<std::optional<Channel>> Connect(const Setup& setup, int rank, TcpListener& listener,
                                            const std::vector<SocketAddress>& addresses) {
  const TimePoint deadline = SteadyClock::Instance().Now() + std::chrono::seconds(20);
  std::vector<std::optional<Channel>> channels(static_cast<std::size_t>(setup.ranks));
  Handshake::Options options{.role = Handshake::Role::kDialler,
                             .protection = setup.protection,
                             .credentials = {.job_id = "bench"},
                             .mine = {.rank = rank, .purpose = {.kind = Purpose::Kind::kData}}};
  for (std::size_t peer = 0; peer < static_cast<std::size_t>(rank); ++peer) {
    UniqueFd socket = OrExit(Dial(addresses[peer], deadline));
    channels[peer] = OrExit(Handshake::Run(std::move(socket), options, deadline));
  }
  options.role = Handshake::Role::kListener;
  for (int left = setup.ranks - rank - 1; left > 0; --left) {
    UniqueFd socket;
    while (!socket.valid()) socket = OrExit(listener.Accept());
    Introduction peer;
    Channel channel = OrExit(Handshake::Run(std::move(socket), options, deadline, &peer));
    channels[static_cast<std::size_t>(peer.rank)] = std::move(channel);
  }
  return channels;
}

// Microseconds per call.
std::vector<double> Measure(TcpBackend& backend, CollectiveCall& call, std::size_t bytes) {
  const int samples = bytes <= kMiB ? 400 : bytes <= 16 * kMiB ? 60 : 20;
  std::vector<double> times;
  for (int sample = -samples / 10 - 2; sample < samples; ++sample) {
    const TimePoint start = SteadyClock::Instance().Now();
    const Status status = backend.Execute(call);
    const std::chrono::duration<double, std::micro> spent = SteadyClock::Instance().Now() - start;
    if (!status.ok()) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      std::exit(1);
    }
    if (sample >= 0) times.push_back(spent.count());
  }
  std::sort(times.begin(), times.end());
  return times;
}

void RunRank(const Setup& setup, int rank, TcpListener& listener,
             const std::vector<SocketAddress>& addresses) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(rank % UsableCores(), &cores);
  TcpBackendOptions options;
  options.rank = rank;
  options.wait = WaitPolicy::For(setup.ranks, UsableCores());
  if (setup.ranks <= UsableCores()) sched_setaffinity(0, sizeof(cores), &cores);
  TcpBackend backend(Connect(setup, rank, listener, addresses), std::move(options));
  std::vector<std::byte> memory(setup.max_bytes);
  if (rank == 0) {
    std::printf("%12s %12s %12s %10s %10s\n", "bytes", "median us", "min us", "algbw", "busbw");
  }
  for (const std::size_t bytes : kSizes) {
    if (bytes > setup.max_bytes) break;
    CollectiveCall call;
    call.params.kind = OpKind::kAllreduce;
    call.size = setup.ranks;
    call.bytes_per_rank = {bytes};
    call.inputs = {ByteStream({std::span(memory).first(bytes)})};
    call.outputs = call.inputs;
    const std::vector<double> times = Measure(backend, call, bytes);
    if (rank != 0) continue;
    const double median = times[times.size() / 2];
    const double rate = static_cast<double>(bytes) / median / 1e3;
    std::printf("%12zu %12.2f %12.2f %10.2f %10.2f\n", bytes, median, times[0], rate,
                rate * 2 * (setup.ranks - 1) / setup.ranks);
    std::fflush(stdout);
  }
}

int Main(int argc, char** argv) {
  Setup setup;
  if (argc > 1) setup.ranks = std::atoi(argv[1]);
  if (argc > 2 && std::string_view(argv[2]) == "tls") setup.protection = Protection::kTls;
  if (argc > 3) setup.max_bytes = static_cast<std::size_t>(std::atoi(argv[3])) * kMiB;
  std::vector<TcpListener> listeners;
  std::vector<SocketAddress> addresses;
  for (int rank = 0; rank < setup.ranks; ++rank) {
    listeners.push_back(OrExit(TcpListener::Open(OrExit(SocketAddress::Parse("127.0.0.1:0")))));
    addresses.push_back(listeners.back().address());
  }
  std::vector<pid_t> others;
  for (int rank = 1; rank < setup.ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      RunRank(setup, rank, listeners[static_cast<std::size_t>(rank)], addresses);
      std::_Exit(0);
    }
    others.push_back(child);
  }
  RunRank(setup, 0, listeners[0], addresses);
  for (const pid_t child : others) waitpid(child, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace hora

int main(int argc, char** argv) { return hora::Main(argc, argv); }

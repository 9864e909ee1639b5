// Operations that only move bytes.
#include <numeric>

#include "hora/collectives/paired_pieces.h"
#include "hora/collectives/tcp/algorithms.h"

namespace hora {
namespace {

// Peers that a rank exchanges bulk with at the same time.
constexpr int kPeersAtOnce = 8;

// Queues round(1), round(2), … for the peers at that distance, while at most kPeersAtOnce are under
// way. No two ranks wait for each other: whoever is behind has what it waits for queued everywhere.
template <class Round>
Status ExchangePairs(TcpExchange& exchange, Round round) {
  for (int distance = 1; distance < exchange.size(); ++distance) {
    if (const int earlier = distance - kPeersAtOnce; earlier > 0) {
      const int to = exchange.After(earlier);
      const int from = exchange.After(-earlier);
      Status status = exchange.AwaitSent(to, exchange.QueuedTo(to));
      if (status.ok()) status = exchange.AwaitReceived(from, exchange.QueuedFrom(from));
      if (!status.ok()) return status;
    }
    round(exchange.After(distance), exchange.After(-distance));
  }
  return exchange.Finish();
}

// What comes from the rank before goes on to the rank after, unless it ends here. Blocks come in
// the order of `blocks`; a piece goes on as soon as it is there.
struct Block {
  ByteStream* stream = nullptr;
  bool goes_on = false;
};

Status PassOn(TcpExchange& exchange, std::span<const Block> blocks) {
  const int previous = exchange.After(-1);
  const int next = exchange.After(1);
  std::uint64_t end = exchange.QueuedFrom(previous);
  for (const Block& block : blocks) {
    exchange.Receive(previous, *block.stream, 0, block.stream->size());
  }
  for (const Block& block : blocks) {
    const std::uint64_t bytes = block.stream->size();
    for (std::uint64_t at = 0; at < bytes; at += kTcpPieceBytes) {
      const std::uint64_t count = std::min<std::uint64_t>(bytes - at, kTcpPieceBytes);
      end += count;
      if (!block.goes_on) continue;
      Status status = exchange.AwaitReceived(previous, end);
      if (status.ok()) status = exchange.Pass();
      if (!status.ok()) return status;
      exchange.Send(next, *block.stream, at, count);
    }
  }
  return exchange.Finish();
}

Status BroadcastByTree(TcpExchange& exchange, CollectiveCall& call) {
  const int size = exchange.size();
  const int root = call.params.root_rank;
  const int place = (exchange.rank() - root + size) % size;  // in the tree
  const std::uint64_t bytes = call.bytes_per_rank[0];
  // Whoever has the bytes sends them to the rank `distance` after it; the distance halves.
  int distance = 1;
  while (distance < size && (place & distance) == 0) distance *= 2;
  if (place != 0) {
    const int from = (exchange.rank() - distance + size) % size;
    exchange.Receive(from, call.outputs[0], 0, bytes);
    if (Status status = exchange.AwaitReceived(); !status.ok()) return status;
  }
  ByteStream& stream = place == 0 ? call.inputs[0] : call.outputs[0];
  for (distance /= 2; distance > 0; distance /= 2) {
    if (place + distance < size) exchange.Send(exchange.After(distance), stream, 0, bytes);
  }
  return exchange.Finish();
}

}  // namespace

Status TcpAllgather(TcpExchange& exchange, CollectiveCall& call) {
  const auto rank = static_cast<std::size_t>(exchange.rank());
  ByteStream& own = call.inputs[0];
  CopyPieces(own, call.outputs[rank], 0, own.size());
  const std::uint64_t total =
      std::accumulate(call.bytes_per_rank.begin(), call.bytes_per_rank.end(), std::uint64_t{0});
  if (exchange.size() == 2 || total <= kTcpAtOnceBytes) {
    return ExchangePairs(exchange, [&](int to, int from) {
      exchange.Send(to, own, 0, own.size());
      ByteStream& output = call.outputs[static_cast<std::size_t>(from)];
      exchange.Receive(from, output, 0, output.size());
    });
  }
  exchange.Send(exchange.After(1), own, 0, own.size());
  std::vector<Block> blocks;
  for (int distance = 1; distance < exchange.size(); ++distance) {
    const auto source = static_cast<std::size_t>(exchange.After(-distance));
    blocks.push_back({&call.outputs[source], distance + 1 < exchange.size()});
  }
  return PassOn(exchange, blocks);
}

Status TcpAlltoall(TcpExchange& exchange, CollectiveCall& call) {
  const auto rank = static_cast<std::size_t>(exchange.rank());
  CopyPieces(call.inputs[rank], call.outputs[rank], 0, call.inputs[rank].size());
  return ExchangePairs(exchange, [&](int to, int from) {
    ByteStream& input = call.inputs[static_cast<std::size_t>(to)];
    exchange.Send(to, input, 0, input.size());
    ByteStream& output = call.outputs[static_cast<std::size_t>(from)];
    exchange.Receive(from, output, 0, output.size());
  });
}

Status TcpBroadcast(TcpExchange& exchange, CollectiveCall& call) {
  const int root = call.params.root_rank;
  const bool is_root = exchange.rank() == root;
  ByteStream& output = call.outputs[0];
  if (is_root) CopyPieces(call.inputs[0], output, 0, output.size());
  if (exchange.size() == 2 || call.bytes_per_rank[0] <= kTcpAtOnceBytes) {
    return BroadcastByTree(exchange, call);
  }
  if (is_root) {
    exchange.Send(exchange.After(1), call.inputs[0], 0, output.size());
    return exchange.Finish();
  }
  const Block block{&output, exchange.After(1) != root};
  return PassOn(exchange, std::span(&block, 1));
}

}  // namespace hora

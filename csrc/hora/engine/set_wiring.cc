#include "hora/engine/set_wiring.h"

#include <utility>
#include <vector>

#include "hora/collectives/shm/shm_backend.h"
#include "hora/control/shm_link.h"
#include "hora/negotiation/tree_position.h"

namespace hora {
namespace {

TreePosition TreeOf(const ProcessSetOptions& options) {
  return TreePosition::Of(options.rank, options.layout, options.tunables.tree_fan_out);
}

// The ranks that share the board.
RankNames NamesOnBoard(const ProcessSetOptions& options) {
  if (options.layout.hosts() == 1) return options.names;
  const int host = options.layout.host_of(options.rank);
  std::vector<int> global;
  for (int i = 0; i < options.layout.size_of(host); ++i) {
    global.push_back(options.names.Of(options.layout.first_of(host) + i));
  }
  return RankNames(std::move(global));
}

// A link through the rings of this host, or over the network to another one.
std::unique_ptr<Link> LinkTo(int neighbour, bool to_child, const ProcessSetOptions& options) {
  const HostLayout& layout = options.layout;
  const int host = layout.host_of(options.rank);
  const std::shared_ptr<Board>& board = options.board;
  const int self = layout.local_of(options.rank);
  if (layout.host_of(neighbour) != host) {
    return options.network->TakeLink(neighbour,
                                     [board, self] { board->flags(self).doorbell.Wake(); });
  }
  const int other = neighbour - layout.first_of(host);
  return to_child ? ShmLink::ToChild(board, self, other, NamesOnBoard(options))
                  : ShmLink::ToParent(board, self, other, NamesOnBoard(options));
}

}  // namespace

ControlPlane Connect(const ProcessSetOptions& options) {
  const TreePosition position = TreeOf(options);
  std::vector<ControlPlane::Edge> edges;
  const auto add = [&](int neighbour, bool to_child) {
    edges.push_back({.neighbour = neighbour,
                     .link = LinkTo(neighbour, to_child, options),
                     .to_child = to_child});
  };
  if (!position.is_root()) add(position.parent, false);
  for (const int child : position.children) add(child, true);
  return ControlPlane(std::move(edges), options.names);
}

NegotiatorOptions ForNegotiator(const ProcessSetOptions& options) {
  return {.position = TreeOf(options),
          .cache_capacity = options.tunables.cache_capacity,
          .stall_warning = options.config.stall_warning,
          .stall_abort = options.config.stall_abort,
          .names = options.names};
}

ExecutorOptions ForExecutor(const ProcessSetOptions& options, Lane lane) {
  return {.process_set = options.id,
          .rank = options.rank,
          .size = options.layout.size(),
          .names = options.names,
          .tuning = options.tunables.tuning,
          .join_divides_by_size = options.tunables.join_divides_by_size != 0,
          .bulk = lane == Lane::kBulk,
          .result_memory = options.result_memory};
}

std::unique_ptr<CollectiveBackend> MakeBackend(const ProcessSetOptions& options, Lane lane,
                                               const WaitPolicy& wait, Interruption interruption) {
  auto inside = std::make_unique<ShmBackend>(
      options.board, ShmLaneOptions{.lane = lane,
                                    .rank = options.layout.local_of(options.rank),
                                    .wait = wait,
                                    .patience = options.config.stall_abort,
                                    .names = NamesOnBoard(options),
                                    .interruption = interruption});
  if (options.network == nullptr) return inside;
  const std::shared_ptr<Board>& board = options.board;
  const auto lost = [board] { return board->aborted() ? board->abort_status() : Status::Ok(); };
  return options.network->MakeBackend(lane, std::move(inside),
                                      {.wait = wait,
                                       .patience = options.config.stall_abort,
                                       .lost = lost,
                                       .interruption = std::move(interruption)});
}

}  // namespace hora

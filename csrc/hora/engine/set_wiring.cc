#include "hora/engine/set_wiring.h"

#include <functional>
#include <utility>
#include <vector>

#include "hora/base/format.h"
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
  return options.names.Part(options.layout.ranks_of(options.layout.host_of(options.rank)));
}

// Why the set has ended.
std::function<Status()> LossOf(const ProcessSetOptions& options) {
  return
      [board = options.board] { return board->aborted() ? board->abort_status() : Status::Ok(); };
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
          .result_memory = options.resources.result_memory};
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
  return options.network->MakeBackend(lane, std::move(inside),
                                      {.wait = wait,
                                       .patience = options.config.stall_abort,
                                       .lost = LossOf(options),
                                       .interruption = std::move(interruption)});
}

std::unique_ptr<DeviceLane> MakeDeviceLane(const ProcessSetOptions& options, Lane lane,
                                           CollectiveBackend& host, Interruption interruption) {
  const bool alone = options.network == nullptr;
  const std::uint64_t generation = alone ? 0 : options.network->generation();
  return std::make_unique<DeviceLane>(
      host, options.resources.device,
      DeviceLaneOptions{
          .rank = options.rank,
          .names = options.names,
          .layout = options.layout,
          .name = fmt::format("process set {}{}", options.id,
                              lane == Lane::kOrdered ? " in program order" : ""),
          .key = fmt::format("{}.{}.{}", generation, options.id, static_cast<int>(lane)),
          .config = options.config.device,
          .patience = options.config.stall_abort,
          .lost = LossOf(options),
          .interruption = std::move(interruption),
          .store = alone ? nullptr : options.network->store(),
          .flat = !alone && options.network->flat(),
          .across = alone ? nullptr : options.network->across(lane)});
}

}  // namespace hora

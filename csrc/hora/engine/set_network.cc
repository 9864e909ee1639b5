#include "hora/engine/set_network.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/collectives/hierarchical/hierarchical_backend.h"
#include "hora/control/tcp_link.h"
#include "hora/negotiation/tree_position.h"

namespace hora {
namespace {

// A backend that somebody else can reach, too, to end what it does.
class SharedBackend final : public CollectiveBackend {
 public:
  explicit SharedBackend(std::shared_ptr<CollectiveBackend> backend)
      : backend_(std::move(backend)) {}

  std::string_view name() const override { return backend_->name(); }
  bool Supports(const OpParams& params) const override { return backend_->Supports(params); }
  void Retune(const Tuning& tuning) override { backend_->Retune(tuning); }
  Status Execute(CollectiveCall& call) override { return backend_->Execute(call); }

 private:
  std::shared_ptr<CollectiveBackend> backend_;
};

Purpose DataOf(int set, Lane lane) {
  return {
      .kind = Purpose::Kind::kData, .lane = static_cast<std::uint8_t>(lane), .process_set = set};
}

}  // namespace

Result<std::unique_ptr<SetNetwork>> SetNetwork::Connect(const JobGroup& job,
                                                        const SetNetworkOptions& options,
                                                        TimePoint deadline) {
  std::unique_ptr<SetNetwork> network(new SetNetwork(job, options));
  Status status = network->ConnectControl(deadline);
  for (int lane = 0; status.ok() && lane < kLaneCount; ++lane) {
    status = network->ConnectLane(static_cast<Lane>(lane), deadline);
  }
  if (!status.ok()) return Fail(std::move(status));
  return network;
}

Status SetNetwork::ConnectControl(TimePoint deadline) {
  const HostLayout& layout = options_.layout;
  const int host = layout.host_of(options_.rank);
  const TreePosition position = TreePosition::Of(options_.rank, layout, options_.tree_fan_out);
  std::vector<int> neighbours = position.children;
  if (!position.is_root()) neighbours.push_back(position.parent);
  for (const int neighbour : neighbours) {
    if (layout.host_of(neighbour) == host) continue;
    const Purpose purpose{.kind = Purpose::Kind::kControl, .process_set = options_.id};
    Result<Channel> channel = peers_->Connect(options_.names.Of(neighbour), purpose, deadline);
    if (!channel) return channel.error();
    control_.emplace_back(neighbour, std::move(*channel));
  }
  return Status::Ok();
}

std::vector<int> SetNetwork::Group() const {
  const HostLayout& layout = options_.layout;
  if (options_.config.flat()) {
    std::vector<int> all(static_cast<std::size_t>(layout.size()));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  const int lane = layout.local_of(options_.rank);
  if (layout.hosts() == 1 || lane >= layout.lanes()) return {};
  return layout.lane_of(lane);
}

int SetNetwork::PlaceInGroup() const {
  return options_.config.flat() ? options_.rank : options_.layout.host_of(options_.rank);
}

Status SetNetwork::ConnectLane(Lane lane, TimePoint deadline) {
  LaneEnds& ends = lanes_[static_cast<std::size_t>(lane)];
  const std::vector<int> group = Group();
  if (group.size() < 2) return Status::Ok();
  if (options_.plugin != nullptr) return CreateGroup(ends, lane);
  for (const int rank : group) {
    std::optional<Channel>& end = ends.channels.emplace_back();
    if (rank == options_.rank) continue;
    auto channel = peers_->Connect(options_.names.Of(rank), DataOf(options_.id, lane), deadline);
    if (!channel) return channel.error();
    end = std::move(*channel);
  }
  return Status::Ok();
}

Status SetNetwork::CreateGroup(LaneEnds& ends, Lane lane) {
  const std::vector<int> group = Group();
  const RankNames names = options_.names.Part(group);
  auto created =
      PluginBackend::Create(*options_.plugin, *store_,
                            {.rank = PlaceInGroup(),
                             .size = static_cast<int>(group.size()),
                             .names = names,
                             .group = fmt::format("{}.{}.{}.{}", generation_, options_.id,
                                                  static_cast<int>(lane), names.Of(0)),
                             .bind_address = peers_->address().HostToString(),
                             .patience = options_.patience});
  if (!created) return created.error();
  ends.library = std::move(*created);
  return Status::Ok();
}

std::unique_ptr<Link> SetNetwork::TakeLink(int neighbour, std::function<void()> wake) {
  const auto found = std::ranges::find(control_, neighbour, &decltype(control_)::value_type::first);
  Check(found != control_.end() && found->second, "neighbours are connected");
  Channel channel = std::move(*found->second);
  found->second.reset();
  return std::make_unique<TcpLink>(std::move(channel), options_.names.Of(neighbour), peers_,
                                   std::move(wake));
}

std::unique_ptr<CollectiveBackend> SetNetwork::MakeBackend(
    Lane lane, std::unique_ptr<CollectiveBackend> inside, TcpBackendOptions options) {
  LaneEnds& ends = lanes_[static_cast<std::size_t>(lane)];
  const std::vector<int> group = Group();
  std::unique_ptr<CollectiveBackend> across;
  if (ends.library != nullptr) {
    across = std::make_unique<SharedBackend>(ends.library);
  } else if (group.size() > 1) {
    options.rank = PlaceInGroup();
    options.names = options_.names.Part(group);
    across = std::make_unique<TcpBackend>(std::move(ends.channels), std::move(options));
  }
  if (options_.config.flat()) return across == nullptr ? std::move(inside) : std::move(across);
  if (options_.layout.hosts() == 1) return inside;
  ends.across = across.get();
  return std::make_unique<HierarchicalBackend>(options_.layout, options_.rank, std::move(inside),
                                               std::move(across));
}

void SetNetwork::Abort() const noexcept {
  for (const LaneEnds& ends : lanes_) {
    if (ends.library != nullptr) ends.library->Abort();
  }
}

}  // namespace hora

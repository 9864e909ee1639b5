#include "hora/engine/job_network.h"

#include <utility>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/negotiation/tree_position.h"

namespace hora {
namespace {

TimePoint Now() { return SteadyClock::Instance().Now(); }

// How what a rank tells the others begins.
constexpr char kHas = '=', kFails = '!';

// The plugin, which is for one family of libraries, on a line of its own; then the library.
std::string TextOf(const Plugin& plugin) {
  return plugin.path.filename().string() + '\n' + plugin.description;
}
std::string_view FamilyOf(std::string_view told) { return told.substr(0, told.find('\n')); }
std::string_view LibraryOf(std::string_view told) { return told.substr(told.find('\n') + 1); }

}  // namespace

Result<std::unique_ptr<JobNetwork>> JobNetwork::Open(int rank, const Config& config,
                                                     JobGroup group) {
  std::unique_ptr<JobNetwork> network(new JobNetwork(rank, config, std::move(group)));
  Status status;
  if (config.network.library() != "tcp") {
    // Those who have the library would wait to connect to one who has not, or has another.
    status = network->OpenLibrary();
    status = network->Agree(status, status.ok() ? TextOf(*network->plugin_) : "");
    if (!status.ok()) return Fail(std::move(status));
  }
  status = network->Agree(network->ConnectAll());
  if (!status.ok()) return Fail(std::move(status));
  return network;
}

// Whoever fails says so in the store, as others wait for it to connect; they look there meanwhile.
Status JobNetwork::ConnectAll() {
  bool is_told = false;
  group_.network->AskWhileWaiting([&] {
    const Result<std::string> told = group_.store->Get(FailureKey(), Now());
    is_told = told.has_value();
    return is_told ? Status(StatusCode::kPeerFailed, *told) : Status::Ok();
  });
  Status status = StartHeartbeats();
  if (status.ok()) status = ConnectGlobalSet();
  group_.network->AskWhileWaiting(nullptr);
  if (status.ok() || is_told) return status;
  const std::string& host =
      group_.host_names[static_cast<std::size_t>(group_.layout.host_of(rank_))];
  const std::string text = fmt::format("rank {} on {}: {}", rank_, host, status.message());
  // Where the store cannot be reached, they wait for the rank in vain.
  [[maybe_unused]] const Status said =
      group_.store->Set(FailureKey(), text.substr(0, kMaxStoreValueBytes));
  return status;
}

std::string JobNetwork::FailureKey() const {
  return fmt::format("hora/unconnected/{}", group_.generation);
}

Status JobNetwork::ConnectGlobalSet() {
  auto connected = Connect(0, rank_, {}, group_.layout);
  if (!connected) return connected.error();
  global_set_ = std::move(*connected);
  return Status::Ok();
}

// The ranks meet once more. Without it, one that is done early and fails in its own program
// would be missed as a neighbour by those who still connect. `has`: the TextOf what all need alike.
Status JobNetwork::Agree(const Status& mine, const std::string& has) {
  const std::string tells = mine.ok() ? kHas + has : kFails + mine.message();
  const Result<Meeting> meeting =
      group_.store->Meet(rank_, group_.layout.size(), tells, Now() + config_.start_timeout);
  if (!mine.ok()) return mine;
  if (!meeting) return meeting.error();
  const std::string& first = meeting->told.front();
  for (std::size_t rank = 0; rank < meeting->told.size(); ++rank) {
    const std::string& told = meeting->told[rank];
    const std::string& host =
        group_.host_names[static_cast<std::size_t>(group_.layout.host_of(static_cast<int>(rank)))];
    if (told.starts_with(kFails)) {
      return Error(StatusCode::kPeerFailed, "rank {} on {} cannot join: {}", rank, host,
                   told.substr(1));
    }
    if (FamilyOf(told) != FamilyOf(first)) {
      return Error(
          StatusCode::kMismatch,
          "rank {} on {} works with {}, and rank 0 with {}: all ranks need the same library "
          "(look at HORA_MPI, and at what is installed there)",
          rank, host, LibraryOf(told), LibraryOf(first));
    }
  }
  return Status::Ok();
}

Status JobNetwork::OpenLibrary() {
  const std::string library = config_.network.library();
  Result<Plugin> plugin = OpenPlugin(library, config_.network.plugin_directory);
  if (!plugin) return plugin.error();
  plugin_ = std::move(*plugin);
  if (rank_ == 0 && group_.layout.hosts() > 1) {
    Log(LogLevel::kWarning, rank_,
        fmt::format("tensors travel between hosts over {} ({}), which hora neither authenticates "
                    "nor encrypts: use it on a network of your own only, else choose hora's TCP "
                    "with HORA_BACKEND=tcp (horarun --backend tcp)",
                    library, plugin_->description));
  }
  return Status::Ok();
}

Status JobNetwork::StartHeartbeats() {
  const HostLayout& layout = group_.layout;
  const int host = layout.host_of(rank_);
  if (layout.local_of(rank_) != 0) return Status::Ok();
  const TreePosition position =
      TreePosition::Of(host, layout.hosts(), group_.host.tunables.tree_fan_out);
  std::vector<int> hosts = position.children;
  if (!position.is_root()) hosts.push_back(position.parent);
  std::vector<Heartbeats::Neighbour> neighbours;
  const TimePoint deadline = Now() + config_.start_timeout;
  for (const int other : hosts) {
    const int rank = layout.first_of(other);
    auto channel = group_.network->Connect(rank, {.kind = Purpose::Kind::kHeartbeat}, deadline);
    if (!channel) return channel.error();
    neighbours.push_back(
        {rank, group_.host_names[static_cast<std::size_t>(other)], std::move(*channel)});
  }
  heartbeats_ = std::make_unique<Heartbeats>(
      rank_, config_.network.heartbeat, std::move(neighbours), group_.host.board, *group_.network);
  return Status::Ok();
}

HostLayout JobNetwork::LayoutOf(const std::vector<int>& ranks) const {
  std::vector<int> sizes;
  int last_host = -1;
  for (const int rank : ranks) {
    const int host = group_.layout.host_of(rank);
    if (host != last_host) sizes.push_back(0);
    ++sizes.back();
    last_host = host;
  }
  return HostLayout(std::move(sizes));
}

std::vector<int> JobNetwork::OnThisHost(const std::vector<int>& ranks) const {
  const int host = group_.layout.host_of(rank_);
  std::vector<int> here;
  for (const int rank : ranks) {
    if (group_.layout.host_of(rank) == host) here.push_back(rank);
  }
  return here;
}

Result<std::shared_ptr<SetNetwork>> JobNetwork::Connect(int set, int place, const RankNames& names,
                                                        const HostLayout& layout) const {
  auto network = SetNetwork::Connect(group_,
                                     {.id = set,
                                      .rank = place,
                                      .names = names,
                                      .layout = layout,
                                      .tree_fan_out = group_.host.tunables.tree_fan_out,
                                      .config = config_.network,
                                      .plugin = plugin_ ? &*plugin_ : nullptr,
                                      .patience = config_.stall_abort},
                                     Now() + config_.start_timeout);
  if (!network) return Fail(std::move(network.error()));
  return std::shared_ptr<SetNetwork>(std::move(*network));
}

void JobNetwork::Tell() {
  if (heartbeats_ != nullptr) heartbeats_->Tell();
}

void JobNetwork::SayGoodbye() {
  if (heartbeats_ != nullptr) heartbeats_->SayGoodbye();
}

}  // namespace hora

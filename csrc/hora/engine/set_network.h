// What a process set of several hosts has towards the other hosts.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/config.h"
#include "hora/base/result.h"
#include "hora/collectives/plugin/plugin_backend.h"
#include "hora/collectives/tcp/tcp_backend.h"
#include "hora/control/job_group.h"
#include "hora/control/link.h"
#include "hora/net/channel.h"
#include "hora/shm/board.h"
#include "hora/tensor/host_layout.h"
#include "hora/tensor/rank_names.h"

namespace hora {

struct SetNetworkOptions {
  int id = 0;    // of the set
  int rank = 0;  // place in the set
  RankNames names;
  HostLayout layout;  // of the set's ranks
  int tree_fan_out = 8;
  NetworkConfig config;
  const Plugin* plugin = nullptr;  // null: TCP
  Duration patience = std::chrono::seconds(300);
};

// Owns the channels until links and backends take them; shares the job's network. Made, and used by
// ProcessSet's constructor, in one thread; Abort: any thread.
class SetNetwork {
 public:
  // Collective over the set; blocks until every rank that this one speaks to has come, or the
  // deadline. The error names the peer and why.
  static Result<std::unique_ptr<SetNetwork>> Connect(const JobGroup& job,
                                                     const SetNetworkOptions& options,
                                                     TimePoint deadline);

  // To a neighbour in the control tree that is on another host. `wake` as TcpLink says.
  std::unique_ptr<Link> TakeLink(int neighbour, std::function<void()> wake);

  // All ranks of the set on one lane; `inside` is what the ranks of this host have.
  std::unique_ptr<CollectiveBackend> MakeBackend(Lane lane,
                                                 std::unique_ptr<CollectiveBackend> inside,
                                                 TcpBackendOptions options);

  // Of what MakeBackend made for the lane: what has the hosts as its ranks. Null where nothing goes
  // in layers, and in a rank without a part in it.
  CollectiveBackend* across(Lane lane) const {
    return lanes_[static_cast<std::size_t>(lane)].across;
  }
  bool flat() const { return options_.config.flat(); }

  const std::shared_ptr<Store>& store() const { return store_; }
  std::uint64_t generation() const { return generation_; }  // of the job

  // Ends what libraries are doing, which do not look at the board.
  void Abort() const noexcept;

 private:
  struct LaneEnds {
    std::vector<std::optional<Channel>> channels;  // by rank of the group that this rank is in
    std::shared_ptr<PluginBackend> library;
    CollectiveBackend* across = nullptr;
  };

  SetNetwork(const JobGroup& job, const SetNetworkOptions& options)
      : peers_(job.network), store_(job.store), generation_(job.generation), options_(options) {}

  Status ConnectControl(TimePoint deadline);
  Status ConnectLane(Lane lane, TimePoint deadline);
  Status CreateGroup(LaneEnds& ends, Lane lane);
  std::vector<int> Group() const;  // places of those that this rank exchanges data with, itself too
  int PlaceInGroup() const;

  const std::shared_ptr<PeerNetwork> peers_;
  const std::shared_ptr<Store> store_;
  const std::uint64_t generation_;
  const SetNetworkOptions options_;
  std::vector<std::pair<int, std::optional<Channel>>> control_;  // by neighbour
  std::array<LaneEnds, kLaneCount> lanes_;
};

}  // namespace hora

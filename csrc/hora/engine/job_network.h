// What the engine of a job over several hosts has beside its host.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hora/base/config.h"
#include "hora/base/result.h"
#include "hora/collectives/plugin/plugin_backend.h"
#include "hora/control/heartbeats.h"
#include "hora/control/job_group.h"
#include "hora/engine/set_network.h"
#include "hora/tensor/host_layout.h"
#include "hora/tensor/rank_names.h"
#include "hora/wire/tunables.h"

namespace hora {

// Owns the plugin's handle and, in the first rank of a host, the heartbeats; shares network and
// store. Any thread, unless said otherwise.
class JobNetwork {
 public:
  // Opens the plugin that the settings ask for, connects the hosts' first ranks and the global set.
  // Collective over the job: nobody returns before all have connected, and what one rank failed
  // with all are told. Blocks as long as start_timeout.
  static Result<std::unique_ptr<JobNetwork>> Open(int rank, const Config& config, JobGroup group);

  const std::shared_ptr<SetNetwork>& global_set() const { return global_set_; }

  // The layout of a set of these global ranks: hosts without any are left out.
  HostLayout LayoutOf(const std::vector<int>& ranks) const;
  // Those of them that are on this rank's host.
  std::vector<int> OnThisHost(const std::vector<int>& ranks) const;

  // Collective over the set.
  Result<std::shared_ptr<SetNetwork>> Connect(int set, int place, const RankNames& names,
                                              const HostLayout& layout) const;

  void Tell();        // the other hosts, why this one's board is aborted
  void SayGoodbye();  // the engine has left

  // In the child of a fork; async-signal-safe.
  void CloseInForkedChild() noexcept { group_.network->CloseInForkedChild(); }

 private:
  JobNetwork(int rank, const Config& config, JobGroup group)
      : rank_(rank), config_(config), group_(std::move(group)) {}

  Status OpenLibrary();
  Status ConnectAll();
  Status StartHeartbeats();
  Status ConnectGlobalSet();
  std::string FailureKey() const;  // in the store: why a rank could not connect
  Status Agree(const Status& mine, const std::string& has = "");

  const int rank_;
  const Config config_;
  JobGroup group_;
  std::optional<Plugin> plugin_;
  std::unique_ptr<Heartbeats> heartbeats_;
  std::shared_ptr<SetNetwork> global_set_;
};

}  // namespace hora

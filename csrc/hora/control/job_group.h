// How the ranks of several hosts become a group.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/control/host_group.h"
#include "hora/net/channel.h"
#include "hora/net/job_key.h"
#include "hora/net/peer_network.h"
#include "hora/net/store.h"
#include "hora/tensor/host_layout.h"

namespace hora {

struct JobGroupOptions {
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  std::string store;  // "ip:port"
  JobCredentials credentials;
  std::vector<std::string> interfaces;  // see ChooseAddress
  Protection control = Protection::kTls;
  // nullopt, nobody asked: kTls, and kChecksum where all of it stays on the loopback interface.
  std::optional<Protection> data;
  std::string engine;  // what moves data across hosts, as HORA_BACKEND has it; equal on all ranks
  Tunables tunables;   // rank 0's are used by all
  Duration timeout = std::chrono::seconds(30);
};

struct JobGroup {
  // Without a network.
  static JobGroup OnOneHost(HostGroup group);

  HostGroup host;  // of this host's ranks; its peers have their global numbers
  HostLayout layout;
  std::vector<std::string> host_names;  // by host
  std::shared_ptr<Store> store;
  std::shared_ptr<PeerNetwork> network;
  std::uint64_t generation = 0;
};

// Meets all other ranks at the store, forms the group of this host and opens the network to the
// others. Blocks until everybody is there, or the timeout. Errors name who is missing or differs:
// kTimeout, kMismatch (versions, engines, protections, ranks that are not numbered host by host),
// kInvalidArgument (somebody asks for a protection of the data that the engine does not have), and
// those of FormHostGroup. May be retried after a failure.
Result<JobGroup> FormJobGroup(const JobGroupOptions& options);

}  // namespace hora

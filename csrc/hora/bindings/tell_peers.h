// What the other ranks are told by one that will not join them.
#pragma once

#include <string>

#include "hora/net/job_key.h"

namespace hora::bindings {

// Where the ranks of a job meet: at a store ("ip:port"), or at a Unix socket of this host.
struct MeetingPlace {
  std::string store;
  std::string rendezvous;
  JobCredentials credentials;
};

// `rank` says so, or somebody else who knows (-1). All who wait there to meet for the first time
// fail with `problem`. Whoever cannot be reached within a second is not told. Does not touch
// Python; any thread.
void TellPeers(const MeetingPlace& place, int rank, const std::string& problem);

}  // namespace hora::bindings

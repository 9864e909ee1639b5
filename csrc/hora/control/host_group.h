// How the ranks of one host find each other: rank 0 hands the board to everyone over a Unix socket,
// and those sockets then tell who is alive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/net/job_key.h"
#include "hora/shm/board.h"
#include "hora/wire/tunables.h"

namespace hora {

struct HostGroupOptions {
  int rank = 0;
  int size = 1;
  std::string rendezvous;  // abstract Unix-socket name, without the leading NUL; size > 1 only
  JobKey key;              // proves membership of this job; never logged
  int listen_fd = -1;      // rank 0: the listening socket behind `rendezvous`; stays the caller's
  Tunables tunables;       // rank 0's are used by all
  Duration timeout = std::chrono::seconds(30);
};

// An open connection to another rank: end-of-file without a goodbye means that it died.
struct PeerSocket {
  int rank = -1;
  int pid = 0;
  int fd = -1;  // owned by whoever holds the group
};

struct HostGroup {
  std::shared_ptr<Board> board;
  Tunables tunables;
  std::vector<PeerSocket> peers;  // rank 0: every other rank; others: rank 0
};

// Blocks until all ranks have the board, or the timeout. Errors say which ranks are there and which
// are missing ("have 0, 1, 3; missing 2"), who claims the same rank, who is of another version or
// job. May be retried after a failure: stale connections of an earlier attempt are recognised by
// their hang-up and dropped. Nothing is parsed before the fixed-size hello has proved the key;
// peers must run as the same user. The generation that rank 0 hands out grows with every group that
// it forms.
Result<HostGroup> FormHostGroup(const HostGroupOptions& options);

// For somebody who will not join: rank 0, which may still wait, and with it all others fail with
// this. Waits until the deadline for rank 0 to be there.
Status TellHostGroup(const std::string& rendezvous, const JobKey& key, const Status& problem,
                     TimePoint deadline);

}  // namespace hora

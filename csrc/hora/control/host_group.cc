#include "hora/control/host_group.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "hora/base/format.h"
#include "hora/control/rendezvous_client.h"
#include "hora/control/rendezvous_message.h"
#include "hora/control/rendezvous_server.h"

namespace hora {
namespace {

constexpr std::size_t kLongestName = sizeof(sockaddr_un::sun_path) - 1;
constexpr Duration kLongestTimeout = std::chrono::hours(24 * 365);  // no overflow of a deadline

// Of the groups that this process forms as rank 0.
std::uint64_t NextGeneration() {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1) + 1;
}

bool IsListening(int fd) {
  int listening = 0;
  socklen_t length = sizeof(listening);
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0 && listening != 0;
}

bool IsName(const std::string& rendezvous) {
  return !rendezvous.empty() && rendezvous.size() <= kLongestName;
}

Status CheckOptions(const HostGroupOptions& options) {
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size) {
    return Error(StatusCode::kInvalidArgument, "rank {} of {} ranks on this host", options.rank,
                 options.size);
  }
  if (options.size == 1) return Status::Ok();
  if (options.rank == 0 && !IsListening(options.listen_fd)) {
    return Error(StatusCode::kInvalidArgument,
                 "rank 0: descriptor {} is not the listening socket of the rendezvous",
                 options.listen_fd);
  }
  if (options.rank != 0 && !IsName(options.rendezvous)) {
    return Error(StatusCode::kInvalidArgument,
                 "rank {}: the rendezvous name has {} bytes; allowed are 1 to {}", options.rank,
                 options.rendezvous.size(), kLongestName);
  }
  return Status::Ok();
}

Result<HostGroup> FormAlone(const HostGroupOptions& options) {
  Result<std::shared_ptr<Board>> board = Board::Create(
      {.size = 1, .window_bytes = options.tunables.window_bytes, .generation = NextGeneration()});
  if (!board) return Fail(std::move(board.error()));
  return HostGroup{.board = std::move(*board), .tunables = options.tunables, .peers = {}};
}

}  // namespace

Result<HostGroup> FormHostGroup(const HostGroupOptions& options) {
  if (Status status = CheckOptions(options); !status.ok()) return Fail(std::move(status));
  if (options.size == 1) return FormAlone(options);
  const TimePoint deadline = SteadyClock::Instance().Now() +
                             std::clamp(options.timeout, Duration::zero(), kLongestTimeout);
  if (options.rank != 0) return JoinRendezvous(options, deadline);
  // A connection that is gone again between poll and accept must not block.
  fcntl(options.listen_fd, F_SETFL, fcntl(options.listen_fd, F_GETFL) | O_NONBLOCK);
  return RendezvousServer(options, NextGeneration()).Form(deadline);
}

Status TellHostGroup(const std::string& rendezvous, const JobKey& key, const Status& problem,
                     TimePoint deadline) {
  if (!IsName(rendezvous)) {
    return Error(StatusCode::kInvalidArgument, "a rendezvous name has 1 to {} bytes, not {}",
                 kLongestName, rendezvous.size());
  }
  return RefuseRendezvous({.rank = Hello::kNoRank, .rendezvous = rendezvous, .key = key}, problem,
                          deadline);
}

}  // namespace hora

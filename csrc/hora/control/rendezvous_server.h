// Rank 0's side of forming a host group.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/rank_set.h"
#include "hora/base/result.h"
#include "hora/base/unique_fd.h"
#include "hora/control/host_group.h"
#include "hora/control/rendezvous_message.h"

namespace hora {

// Owns the accepted connections and the board until the group is complete. One thread, one call of
// Form. A connection is a stranger until its hello has proved the key; strangers have little time,
// are few, and can neither fail nor delay the group. A member of the job that contradicts the group
// (other size or version, a rank twice) fails it at once for everybody, since waiting would not
// heal it; so does a messenger, which has the key and no rank, for the reason that it brings.
class RendezvousServer {
 public:
  RendezvousServer(const HostGroupOptions& options, std::uint64_t generation);

  Result<HostGroup> Form(TimePoint deadline);

 private:
  enum class Stage : std::uint8_t { kStranger, kMessenger, kWelcomed, kReady, kGone };
  struct Connection {
    UniqueFd fd;
    PeerIdentity identity;
    TimePoint hello_deadline;
    Stage stage = Stage::kStranger;
    int rank = -1;
    MessageReader reader;
    Hello hello;
    Notice notice;

    int pid() const { return identity.pid; }
    bool is_member() const { return stage == Stage::kWelcomed || stage == Stage::kReady; }
  };

  Status Serve(TimePoint deadline);  // until everybody is ready
  bool Wait(TimePoint deadline);     // true when somebody connects
  Status Accept();
  Status Advance(Connection& connection);
  Status MeetStranger(Connection& connection);
  Status Judge(const Connection& connection) const;
  Status CheckUnclaimed(const Connection& connection);
  void Welcome(Connection& connection);
  void DropTheGone();
  void RefuseAll(const Status& cause);
  bool EverybodyReady() const;
  Status TimedOut() const;
  HostGroup Complete();

  const HostGroupOptions& options_;
  const std::uint64_t generation_;
  std::shared_ptr<Board> board_;
  std::vector<std::unique_ptr<Connection>> connections_;
  int turned_away_ = 0;    // strangers without the key
  std::string last_loss_;  // who left again before the group was complete
};

}  // namespace hora

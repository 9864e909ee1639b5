// Where connections arrive: strangers until they have proved the job's key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/base/unique_fd.h"
#include "hora/net/forked_descriptors.h"
#include "hora/net/handshake.h"
#include "hora/net/tcp_socket.h"

namespace hora {

// A member of the job that has connected.
struct Newcomer {
  Channel channel;
  Introduction said;         // by the other end
  std::uint64_t generation;  // that it was told
  std::string address;
};

// Owns the listener and the strangers. Each has kHandshakePatience. Their number is bounded: when
// more come, those that have been silent for a moment, or slow for longer, make room, and else the
// others wait in the kernel's queue; so nobody keeps members out, nor members each other. One
// thread, nothing blocks, nothing throws but lack of memory; CloseInForkedChild is
// async-signal-safe.
class Reception {
 public:
  struct Options {
    JobCredentials credentials;
    int rank = -1;
    Protection control = Protection::kTls;  // kStore, kControl and kHeartbeat
    Protection data = Protection::kTls;
  };

  static Result<std::unique_ptr<Reception>> Open(const SocketAddress& address, Options options);
  ~Reception();

  const SocketAddress& address() const { return listener_.address(); }

  // Readable (an epoll descriptor) when Receive has something to do; it has at the deadline, too.
  int fd() const { return epoll_.get(); }
  TimePoint deadline() const;
  std::vector<Newcomer> Receive();

  // Told to those who come from now on.
  void set_generation(std::uint64_t generation) { generation_ = generation; }
  // The job has so many; until it is known, many may come at once.
  void Expect(int members);
  // For the error of somebody who waited in vain: who came instead, "" when nobody did.
  std::string TurnedAway() const;
  // Why a process of this job was turned away since the last call: its hello has the job's tag, but
  // another version or protection, which waiting would not heal. It may be a recorded one.
  std::optional<Status> TakeMisfit() { return std::exchange(misfit_, std::nullopt); }

  void CloseInForkedChild() const noexcept;

 private:
  struct Stranger {
    UniqueFd socket;  // before its protection is known
    std::unique_ptr<Handshake> handshake;
    std::uint64_t generation = 0;
    TimePoint since;
    std::string address;
    int fd = -1;
    bool writes = false;  // what epoll waits for
    bool spoke = false;

    TimePoint deadline() const { return since + kHandshakePatience; }
  };
  using Strangers = std::map<std::uint64_t, Stranger>;  // by age

  Reception(TcpListener listener, UniqueFd epoll, Options options);

  void AcceptAll();
  void AcceptWithoutDescriptors(const Status& cause);
  bool MakeRoom();
  void PauseListening(Duration duration);
  void Admit(UniqueFd socket);
  bool BeginHandshake(Stranger& stranger);  // false when the first bytes are not there yet
  void Advance(std::uint64_t id, std::vector<Newcomer>& newcomers);
  void TurnAway(Strangers::iterator stranger, const Status& why);
  void Drop(Strangers::iterator stranger);

  TcpListener listener_;
  const UniqueFd epoll_;
  const Options options_;
  ForkedDescriptors descriptors_;
  std::size_t most_strangers_;
  Strangers strangers_;
  std::uint64_t next_id_ = 1;
  std::uint64_t generation_ = 0;
  TimePoint paused_until_{};  // the listener is not watched
  std::uint64_t turned_away_ = 0;
  std::string last_reason_;
  std::optional<Status> misfit_;
  TimePoint next_log_{};
};

}  // namespace hora

// From a new connection to a channel.
#pragma once

#include <cstdint>
#include <memory>

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/base/unique_fd.h"
#include "hora/net/channel.h"
#include "hora/net/job_key.h"

namespace hora {

inline constexpr std::uint32_t kNetworkVersion = 1;
inline constexpr Duration kHandshakePatience = std::chrono::seconds(2);

// What a connection is for. Between two ranks there is at most one of a kind.
struct Purpose {
  enum class Kind : std::uint8_t { kStore = 1, kControl = 2, kHeartbeat = 3, kData = 4 };

  Kind kind = Kind::kStore;
  std::uint8_t lane = 0;         // kData: a Lane
  std::uint16_t stripe = 0;      // kData: several sockets side by side
  std::int32_t process_set = 0;  // kControl, kData

  friend auto operator<=>(const Purpose&, const Purpose&) = default;
};

// What both ends tell each other, protected by the key.
struct Introduction {
  std::int32_t rank = -1;  // -1: not a rank (a launcher)
  std::uint64_t generation = 0;
  Purpose purpose;
};

// Owns the socket until it is a channel. The first bytes each way are a hello of a fixed size
// (magic, version, job id, protection, nonce); nothing else is read before it, and no length that
// the other end names is believed before it has proved the key. kTls: TLS 1.3 with an external
// pre-shared key derived from the job's; else mutual HMAC-SHA-256 over both hellos, roles and
// introductions, with a key for each direction derived from all of it (HKDF, RFC 5869). Both ends
// must ask for the same protection.
//
// Nothing blocks. One thread.
class Handshake {
 public:
  enum class Role : std::uint8_t { kDialler, kListener };
  enum class Progress : std::uint8_t { kWantsRead, kWantsWrite, kDone, kFailed };

  struct Options {
    Role role = Role::kDialler;
    Protection protection = Protection::kTls;
    JobCredentials credentials;
    Introduction mine;  // a listener's purpose is that of the dialler
  };

  Handshake(UniqueFd socket, const Options& options);
  ~Handshake();
  Handshake(Handshake&&) noexcept;

  Progress Advance();
  int fd() const;
  // After kFailed. kInvalidArgument: a member of the job with another version or protection, which
  // waiting would not heal. Else the other end is none (kPeerFailed), or has gone.
  const Status& failure() const;
  bool is_member() const;            // the other end has proved the key
  const Introduction& peer() const;  // after kDone
  Channel Take();                    // after kDone, once

  // All of it for a dialler that may block.
  static Result<Channel> Run(UniqueFd socket, const Options& options, TimePoint deadline,
                             Introduction* peer = nullptr);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace hora

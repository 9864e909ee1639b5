// Somebody who reaches the ports of a job, and has no key.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "hora/base/unique_fd.h"
#include "hora/net/channel.h"
#include "hora/net/job_key.h"
#include "hora/net/socket_address.h"

namespace hora::testing {

using Bytes = std::vector<std::byte>;

// Wherever this process can be reached over TCP.
std::vector<SocketAddress> Listeners();

// What a member with the key says to the listener at `address` until it is believed, as who sits
// between the two hears it.
Bytes RecordMember(const SocketAddress& address, const JobCredentials& credentials,
                   Protection protection);

// Attacks one listener. Each conversation ends when the listener ends it; one that does not end,
// or in which somebody who has said no hello is answered, fails the test. Blocks; one thread.
class Stranger {
 public:
  // `recorded`: of RecordMember, at least one.
  Stranger(const SocketAddress& target, std::vector<Bytes> recorded)
      : target_(target), recorded_(std::move(recorded)) {}

  void AttackInEveryWay();
  // Connections that say a byte of a hello now and then: the listener has to close all of them.
  void AwaitTheEndOfTheSlow();

  std::size_t conversations() const { return conversations_; }

 private:
  enum class After { kLeave, kListen };

  void Scan();
  void SayRandomBytes();
  void SpeakHttp();
  void CutRecordings();
  void Replay();
  void AnnounceGigabytes();
  void ConnectSlowly();
  void Drip();

  UniqueFd Connect();
  // How many bytes came back.
  std::size_t Say(std::span<const std::byte> words, After after);
  std::size_t ListenToTheEnd(int fd);

  const SocketAddress target_;
  const std::vector<Bytes> recorded_;
  std::vector<UniqueFd> slow_;
  std::size_t dripped_ = 0;  // bytes, on each of them
  std::size_t conversations_ = 0;
};

}  // namespace hora::testing

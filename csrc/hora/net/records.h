// What lies between a channel's calls and its socket, one kind for each protection.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "hora/base/result.h"
#include "hora/net/channel.h"
#include "hora/net/crypto.h"

namespace hora {

// Writing and reading share nothing that a caller sees, so that each may have a thread; see Channel
// for what the calls promise. The buffers are of a fixed size: no length that is read asks for
// memory. Errors do not name the other end.
class Channel::Records {
 public:
  virtual ~Records() = default;
  virtual Result<std::size_t> Write(int fd, std::span<const std::byte> bytes) = 0;
  virtual Result<std::size_t> Read(int fd, std::span<std::byte> into) = 0;
  virtual Result<bool> Flush(int fd) = 0;
  virtual bool HasUnread() const = 0;

 private:
  friend class Channel;
  std::string peer_;  // for messages, also when the socket knows it no more
  std::atomic<bool> aborted_{false};
};

// A key for each direction, as this end sees them.
struct RecordKeys {
  SecretKey sends;
  SecretKey receives;
};

Result<std::unique_ptr<Channel::Records>> MakeMacRecords(const RecordKeys& keys);
std::unique_ptr<Channel::Records> MakeChecksumRecords();

}  // namespace hora

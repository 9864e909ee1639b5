// Opening TCP connections. All sockets are non-blocking, close-on-exec and without Nagle's delay.
#pragma once

#include <optional>

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/base/unique_fd.h"
#include "hora/net/socket_address.h"

namespace hora {

class TcpListener {
 public:
  // Binds exactly this address; port 0 is any free port. kInvalidArgument for a wildcard address,
  // kResource names the address and, for a port that is taken, who may hold it.
  static Result<TcpListener> Open(const SocketAddress& address);

  const SocketAddress& address() const { return address_; }  // with the port that it got
  int fd() const { return fd_.get(); }
  // The next connection, an invalid descriptor when nobody waits; kResource when this process may
  // open no more.
  Result<UniqueFd> Accept();

 private:
  TcpListener(UniqueFd fd, SocketAddress address) : fd_(std::move(fd)), address_(address) {}

  UniqueFd fd_;
  SocketAddress address_;
};

// Blocks until connected or the deadline; tries again while the port refuses, as its owner may not
// listen yet, unless `patient` is false. The error names the address and the last reason.
Result<UniqueFd> Dial(const SocketAddress& to, TimePoint deadline, bool patient = true);

// The address of the other end, for messages; "?" when it is gone.
std::string PeerName(int fd);

}  // namespace hora

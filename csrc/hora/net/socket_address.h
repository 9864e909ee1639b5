// Where a TCP socket is: an IPv4 or IPv6 address and a port.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/result.h"

namespace hora {

// A value type.
class SocketAddress {
 public:
  SocketAddress() = default;  // of no family: IsSet() is false
  // From accept(2) and its kin; kInvalidArgument for another family than IPv4 and IPv6.
  static Result<SocketAddress> From(const sockaddr* address, socklen_t bytes);
  // Numbers only: "10.0.0.1:4000", "[fe80::1%eth0]:4000"; the port may be 0.
  static Result<SocketAddress> Parse(std::string_view text);
  // Of a host by name or number, in the resolver's order. Blocks for as long as the resolver takes;
  // kInvalidArgument names the host and the resolver's reason.
  static Result<std::vector<SocketAddress>> Resolve(const std::string& host, std::uint16_t port);

  bool IsSet() const { return family() != AF_UNSPEC; }
  int family() const { return storage_.ss_family; }
  std::uint16_t port() const;
  SocketAddress WithPort(std::uint16_t port) const;
  bool IsLoopback() const;
  bool IsWildcard() const;  // 0.0.0.0 or ::

  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t bytes() const;
  std::string ToString() const;      // as Parse reads it
  std::string HostToString() const;  // without the port

  friend bool operator==(const SocketAddress& a, const SocketAddress& b) {
    return a.ToString() == b.ToString();
  }

 private:
  sockaddr_storage storage_{};
};

}  // namespace hora

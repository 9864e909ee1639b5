// The interfaces of this host, and which of them a job uses.
#pragma once

#include <string>
#include <vector>

#include "hora/base/result.h"
#include "hora/net/socket_address.h"

namespace hora {

struct NetworkInterface {
  std::string name;
  SocketAddress address;  // port 0
  int prefix_length = 0;
  bool is_up = false;
};

// Every address of every interface, IPv4 before IPv6 of the same interface.
Result<std::vector<NetworkInterface>> NetworkInterfaces();

// The address of this host that a job binds, port 0. `wanted` are interface names ("eth0") or
// networks ("10.0.0.0/24"), the first that exists and is up wins; without any, it is the address
// from which the kernel would speak to `towards`. kInvalidArgument says what was wanted and which
// interfaces there are. Never a wildcard address.
Result<SocketAddress> ChooseAddress(const std::vector<std::string>& wanted,
                                    const SocketAddress& towards);

// A link-local address (fe80::…) means nothing without an interface, which each host names in its
// own way: what one says to others leaves the zone out, and they put their own in, that of `here`.
std::string SayToOthers(const SocketAddress& address);
SocketAddress OnLinkOf(const SocketAddress& here, const SocketAddress& theirs);

}  // namespace hora

#include "hora/net/network_interface.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>

#include "hora/base/format.h"
#include "hora/base/unique_fd.h"

namespace hora {
namespace {

constexpr std::uint16_t kAnyPort = 9;  // routes do not depend on it, but some refuse port 0

std::span<const std::byte> HostBytes(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    return std::as_bytes(std::span(&reinterpret_cast<const sockaddr_in*>(address)->sin_addr, 1));
  }
  return std::as_bytes(std::span(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr, 1));
}

int PrefixLength(const sockaddr* mask, int family) {
  if (mask == nullptr) return family == AF_INET ? 32 : 128;
  int bits = 0;
  // The mask of some interfaces has no family of its own.
  sockaddr_storage typed{};
  std::memcpy(&typed, mask, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
  typed.ss_family = static_cast<sa_family_t>(family);
  for (const std::byte byte : HostBytes(reinterpret_cast<const sockaddr*>(&typed))) {
    bits += std::popcount(std::to_integer<unsigned>(byte));
  }
  return bits;
}

struct Network {
  SocketAddress address;
  int prefix_length = 0;
};

// "10.0.0.0/24", "fd00::/8", or an address alone, which is a network of one.
std::optional<Network> ParseNetwork(std::string_view text) {
  const std::size_t slash = text.find('/');
  const std::string_view host = text.substr(0, slash);
  const bool is_ipv6 = host.find(':') != std::string_view::npos;
  const auto address =
      SocketAddress::Parse(is_ipv6 ? fmt::format("[{}]:0", host) : fmt::format("{}:0", host));
  if (!address) return std::nullopt;
  const int longest = is_ipv6 ? 128 : 32;
  int length = longest;
  if (slash != std::string_view::npos) {
    const std::string_view digits = text.substr(slash + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  }
  if (length < 0 || length > longest) return std::nullopt;
  return Network{*address, length};
}

bool Contains(const Network& network, const SocketAddress& address) {
  if (network.address.family() != address.family()) return false;
  const auto a = HostBytes(network.address.data());
  const auto b = HostBytes(address.data());
  for (int bit = 0; bit < network.prefix_length; bit += 8) {
    const int kept = std::min(8, network.prefix_length - bit);
    const std::byte mask{static_cast<unsigned char>(0xff << (8 - kept))};
    if (((a[bit / 8] ^ b[bit / 8]) & mask) != std::byte{0}) return false;
  }
  return true;
}

const sockaddr_in6& AsIpv6(const SocketAddress& address) {
  return *reinterpret_cast<const sockaddr_in6*>(address.data());
}

bool IsLinkLocal(const SocketAddress& address) {
  if (address.family() != AF_INET6) return false;
  return IN6_IS_ADDR_LINKLOCAL(&AsIpv6(address).sin6_addr);
}

// Of several addresses that were asked for: one that reaches other hosts, of the family in use.
const NetworkInterface* BestOf(const std::vector<const NetworkInterface*>& candidates, int family) {
  const auto flaws = [family](const NetworkInterface* candidate) {
    const SocketAddress& address = candidate->address;
    return std::tuple(family != AF_UNSPEC && address.family() != family, address.IsLoopback(),
                      IsLinkLocal(address));
  };
  const auto best =
      std::min_element(candidates.begin(), candidates.end(),
                       [&flaws](const auto* a, const auto* b) { return flaws(a) < flaws(b); });
  return best == candidates.end() ? nullptr : *best;
}

std::string Listed(const std::vector<NetworkInterface>& interfaces) {
  std::string text;
  for (const NetworkInterface& interface : interfaces) {
    fmt::format_to(std::back_inserter(text), "{}{} {}/{}{}", text.empty() ? "" : ", ",
                   interface.name, interface.address.HostToString(), interface.prefix_length,
                   interface.is_up ? "" : " (down)");
  }
  return text.empty() ? "none" : text;
}

Result<SocketAddress> AddressTowards(const SocketAddress& towards) {
  const auto failed = [&towards] {
    return Fail(Error(StatusCode::kInvalidArgument,
                      "this host has no route to {}: {}; name an interface that has one with "
                      "HORA_NETWORK_INTERFACES",
                      towards.HostToString(), std::strerror(errno)));
  };
  // Connecting a datagram socket sends nothing: it asks the kernel for the route.
  const UniqueFd probe(socket(towards.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const SocketAddress target = towards.WithPort(kAnyPort);
  if (connect(probe.get(), target.data(), target.bytes()) != 0) return failed();
  sockaddr_storage own{};
  socklen_t bytes = sizeof(own);
  if (getsockname(probe.get(), reinterpret_cast<sockaddr*>(&own), &bytes) != 0) return failed();
  const Result<SocketAddress> address =
      SocketAddress::From(reinterpret_cast<const sockaddr*>(&own), bytes);
  if (!address) return address;
  return address->WithPort(0);
}

SocketAddress WithZone(const SocketAddress& address, std::uint32_t zone) {
  sockaddr_in6 changed = AsIpv6(address);
  changed.sin6_scope_id = zone;
  return SocketAddress::From(reinterpret_cast<const sockaddr*>(&changed), sizeof(changed)).value();
}

}  // namespace

std::string SayToOthers(const SocketAddress& address) {
  return (IsLinkLocal(address) ? WithZone(address, 0) : address).ToString();
}

SocketAddress OnLinkOf(const SocketAddress& here, const SocketAddress& theirs) {
  const bool needs_zone = IsLinkLocal(here) && IsLinkLocal(theirs);
  return needs_zone ? WithZone(theirs, AsIpv6(here).sin6_scope_id) : theirs;
}

Result<std::vector<NetworkInterface>> NetworkInterfaces() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) {
    return Fail(Error(StatusCode::kResource, "the network interfaces cannot be listed: {}",
                      std::strerror(errno)));
  }
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(first, &freeifaddrs);
  std::vector<NetworkInterface> interfaces;
  std::vector<std::string> order;  // of the kernel
  for (const ifaddrs* entry = first; entry != nullptr; entry = entry->ifa_next) {
    if (std::find(order.begin(), order.end(), entry->ifa_name) == order.end()) {
      order.emplace_back(entry->ifa_name);
    }
    if (entry->ifa_addr == nullptr) continue;
    const int family = entry->ifa_addr->sa_family;
    const Result<SocketAddress> address = SocketAddress::From(
        entry->ifa_addr, family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in));
    if (!address) continue;
    interfaces.push_back({.name = entry->ifa_name,
                          .address = address->WithPort(0),
                          .prefix_length = PrefixLength(entry->ifa_netmask, family),
                          .is_up = (entry->ifa_flags & IFF_UP) != 0});
  }
  const auto place = [&order](const NetworkInterface& interface) {
    return std::tuple(std::find(order.begin(), order.end(), interface.name) - order.begin(),
                      interface.address.family() == AF_INET6);
  };
  std::stable_sort(interfaces.begin(), interfaces.end(),
                   [&place](const auto& a, const auto& b) { return place(a) < place(b); });
  return interfaces;
}

Result<SocketAddress> ChooseAddress(const std::vector<std::string>& wanted,
                                    const SocketAddress& towards) {
  if (wanted.empty()) {
    if (towards.IsSet()) return AddressTowards(towards);
    return Fail(Error(StatusCode::kInvalidArgument,
                      "no network interface was named, and no address to speak to is known"));
  }
  const Result<std::vector<NetworkInterface>> interfaces = NetworkInterfaces();
  if (!interfaces) return Fail(interfaces.error());
  for (const std::string& name : wanted) {
    const std::optional<Network> network = ParseNetwork(name);
    std::vector<const NetworkInterface*> candidates;
    for (const NetworkInterface& interface : *interfaces) {
      const bool matches =
          interface.name == name || (network && Contains(*network, interface.address));
      if (matches && interface.is_up) candidates.push_back(&interface);
    }
    const NetworkInterface* const best = BestOf(candidates, towards.family());
    if (best != nullptr) return best->address;
  }
  return Fail(Error(StatusCode::kInvalidArgument,
                    "none of the network interfaces '{}' is there and up; this host has: {}",
                    fmt::join(wanted, ","), Listed(*interfaces)));
}

}  // namespace hora

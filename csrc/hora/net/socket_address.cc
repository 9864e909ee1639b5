#include "hora/net/socket_address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>

#include <array>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr std::size_t kLongestText = 128;  // an address with a zone and a port has far fewer bytes

const sockaddr_in& AsIpv4(const sockaddr_storage& storage) {
  return reinterpret_cast<const sockaddr_in&>(storage);
}

const sockaddr_in6& AsIpv6(const sockaddr_storage& storage) {
  return reinterpret_cast<const sockaddr_in6&>(storage);
}

template <class Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<sockaddr_in> ParseIpv4(std::string_view host, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (inet_pton(AF_INET, std::string(host).c_str(), &address.sin_addr) != 1) return std::nullopt;
  return address;
}

// "fe80::1%eth0": the zone is the name or the number of an interface.
std::optional<sockaddr_in6> ParseIpv6(std::string_view host, std::uint16_t port) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  const std::size_t percent = host.find('%');
  if (percent != std::string_view::npos) {
    const std::string zone(host.substr(percent + 1));
    address.sin6_scope_id = if_nametoindex(zone.c_str());
    if (address.sin6_scope_id == 0) {
      const auto number = ParseNumber<std::uint32_t>(zone);
      if (!number || *number == 0) return std::nullopt;
      address.sin6_scope_id = *number;
    }
    host = host.substr(0, percent);
  }
  if (inet_pton(AF_INET6, std::string(host).c_str(), &address.sin6_addr) != 1) return std::nullopt;
  return address;
}

template <class Address>
Result<SocketAddress> FromParsed(const std::optional<Address>& parsed, std::string_view text) {
  if (parsed) {
    return SocketAddress::From(reinterpret_cast<const sockaddr*>(&*parsed), sizeof(*parsed));
  }
  return Fail(
      Error(StatusCode::kInvalidArgument, "'{}' holds no numeric IPv4 or IPv6 address", text));
}

}  // namespace

Result<SocketAddress> SocketAddress::From(const sockaddr* address, socklen_t bytes) {
  const bool is_ipv4 = bytes >= sizeof(sockaddr_in) && address->sa_family == AF_INET;
  const bool is_ipv6 = bytes >= sizeof(sockaddr_in6) && address->sa_family == AF_INET6;
  if (!is_ipv4 && !is_ipv6) {
    const int family = bytes >= sizeof(sa_family_t) ? address->sa_family : AF_UNSPEC;
    return Fail(Error(StatusCode::kInvalidArgument,
                      "a socket address of family {} in {} bytes is neither IPv4 nor IPv6", family,
                      bytes));
  }
  SocketAddress made;
  std::memcpy(&made.storage_, address, is_ipv4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
  return made;
}

Result<SocketAddress> SocketAddress::Parse(std::string_view text) {
  const bool is_ipv6 = !text.empty() && text.front() == '[';
  const std::size_t colon = text.rfind(':');
  const bool has_host = text.size() <= kLongestText && colon != std::string_view::npos &&
                        text.find('\0') == std::string_view::npos &&
                        (!is_ipv6 || (colon >= 2 && text[colon - 1] == ']'));
  const auto port = has_host ? ParseNumber<std::uint16_t>(text.substr(colon + 1))
                             : std::optional<std::uint16_t>();
  if (!port) {
    return Fail(Error(StatusCode::kInvalidArgument,
                      "'{}' is no address; wanted is HOST:PORT with numbers, such as "
                      "10.0.0.1:4000 or [fe80::1%eth0]:4000",
                      text.substr(0, kLongestText)));
  }
  if (is_ipv6) return FromParsed(ParseIpv6(text.substr(1, colon - 2), *port), text);
  return FromParsed(ParseIpv4(text.substr(0, colon), *port), text);
}

Result<std::vector<SocketAddress>> SocketAddress::Resolve(const std::string& host,
                                                          std::uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (rc != 0) {
    return Fail(Error(StatusCode::kInvalidArgument, "host '{}' cannot be resolved: {}", host,
                      rc == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(rc)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  std::vector<SocketAddress> addresses;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    const Result<SocketAddress> address = From(entry->ai_addr, entry->ai_addrlen);
    if (address) addresses.push_back(address->WithPort(port));
  }
  if (addresses.empty()) {
    return Fail(Error(StatusCode::kInvalidArgument,
                      "host '{}' cannot be resolved: it has no IPv4 or IPv6 address", host));
  }
  return addresses;
}

std::uint16_t SocketAddress::port() const {
  // The port lies at the same place in both families.
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  return ntohs(AsIpv4(storage_).sin_port);
}

SocketAddress SocketAddress::WithPort(std::uint16_t port) const {
  SocketAddress changed = *this;
  reinterpret_cast<sockaddr_in&>(changed.storage_).sin_port = htons(port);
  return changed;
}

bool SocketAddress::IsLoopback() const {
  if (family() == AF_INET) return ntohl(AsIpv4(storage_).sin_addr.s_addr) >> 24 == 127;
  return family() == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&AsIpv6(storage_).sin6_addr) != 0;
}

bool SocketAddress::IsWildcard() const {
  if (family() == AF_INET) return AsIpv4(storage_).sin_addr.s_addr == INADDR_ANY;
  return family() == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&AsIpv6(storage_).sin6_addr) != 0;
}

socklen_t SocketAddress::bytes() const {
  return family() == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

std::string SocketAddress::HostToString() const {
  if (!IsSet()) return "(no address)";
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (family() == AF_INET) {
    return inet_ntop(AF_INET, &AsIpv4(storage_).sin_addr, text.data(), text.size());
  }
  const sockaddr_in6& address = AsIpv6(storage_);
  std::string host = inet_ntop(AF_INET6, &address.sin6_addr, text.data(), text.size());
  if (address.sin6_scope_id != 0) {
    std::array<char, IF_NAMESIZE> zone{};
    const bool named = if_indextoname(address.sin6_scope_id, zone.data()) != nullptr;
    host += "%" + (named ? std::string(zone.data()) : std::to_string(address.sin6_scope_id));
  }
  return host;
}

std::string SocketAddress::ToString() const {
  if (!IsSet()) return HostToString();
  return family() == AF_INET6 ? fmt::format("[{}]:{}", HostToString(), port())
                              : fmt::format("{}:{}", HostToString(), port());
}

}  // namespace hora

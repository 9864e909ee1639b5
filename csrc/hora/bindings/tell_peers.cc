#include "hora/bindings/tell_peers.h"

#include <cstdlib>
#include <string_view>

#include "hora/base/config.h"
#include "hora/control/host_group.h"
#include "hora/engine/job_settings.h"
#include "hora/net/socket_address.h"
#include "hora/net/store_client.h"

namespace hora::bindings {
namespace {

constexpr Duration kPatience = std::chrono::seconds(1);

// The problem may be a variable: then the one that matters here is read by itself.
Protection ProtectionOfControl() {
  if (const Result<Config> config = Config::FromEnvironment()) return ControlProtection(*config);
  const char* const word = std::getenv("HORA_CONTROL_PLANE");
  return word != nullptr && std::string_view(word) == "mac" ? Protection::kMac : Protection::kTls;
}

}  // namespace

void TellPeers(const MeetingPlace& place, int rank, const std::string& problem) {
  const TimePoint deadline = SteadyClock::Instance().Now() + kPatience;
  if (!place.store.empty()) {
    const Result<SocketAddress> address = SocketAddress::Parse(place.store);
    if (!address) return;
    // Who is not there cannot be told, and has nothing to wait for.
    (void)TellStore(*address, rank, place.credentials, ProtectionOfControl(), problem, deadline);
  } else if (!place.rendezvous.empty()) {
    (void)TellHostGroup(place.rendezvous, place.credentials.key,
                        Status(StatusCode::kInvalidArgument, problem), deadline);
  }
}

}  // namespace hora::bindings

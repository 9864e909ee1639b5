// A store that is somewhere else.
#pragma once

#include <memory>

#include "hora/net/channel.h"
#include "hora/net/job_key.h"
#include "hora/net/socket_address.h"
#include "hora/net/store.h"

namespace hora {

// Blocks until connected; the error names the address and why. Waiting for the server to appear
// counts towards the deadline. Calls of several threads take turns.
Result<std::unique_ptr<Store>> ConnectToStore(const SocketAddress& address, int rank,
                                              const JobCredentials& credentials,
                                              Protection protection, TimePoint deadline);

// Sets kProblemKey for a rank that will not meet the others, or -1 for somebody else who knows.
// Waits no longer than the deadline for the store to be there, and a moment for its answer.
Status TellStore(const SocketAddress& address, int rank, const JobCredentials& credentials,
                 Protection protection, const std::string& problem, TimePoint deadline);

}  // namespace hora

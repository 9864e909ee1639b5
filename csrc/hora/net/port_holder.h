// Who listens on a port of this host, for messages.
#pragma once

#include <string>

#include "hora/net/socket_address.h"

namespace hora {

// "process 4711 (python3) listens there", as far as this user may see it; else how to find out.
// Reads /proc: for the path of errors.
std::string HolderOfPort(const SocketAddress& address);

}  // namespace hora

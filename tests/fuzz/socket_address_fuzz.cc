// Addresses that ranks tell each other.
#include "fuzz_input.h"
#include "hora/net/socket_address.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto address =
      hora::SocketAddress::Parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!address) return 0;
  const auto again = hora::SocketAddress::Parse(address->ToString());
  hora::fuzz::Require(again && *again == *address);
  return 0;
}

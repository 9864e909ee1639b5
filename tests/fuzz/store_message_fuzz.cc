// Any bytes are a store message or an error; a message survives being sent on.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "hora/wire/store_message.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto message = hora::DecodeStoreMessage(std::as_bytes(std::span(data, size)));
  if (!message) return 0;
  std::vector<std::byte> frame;
  if (!hora::EncodeStoreMessage(*message, frame).ok()) return 0;  // too large for a request
  const auto again = hora::DecodeStoreMessage(frame);
  if (!again || *again != *message) std::abort();
  return 0;
}

// What ranks and the store tell each other.
#include "fuzz_input.h"
#include "hora/wire/store_message.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const hora::fuzz::Input input(data, size);
  const auto message = hora::DecodeStoreMessage(input.rest());
  if (!message) return 0;
  std::vector<std::byte> frame;
  hora::fuzz::Require(hora::EncodeStoreMessage(*message, frame).ok());
  const auto again = hora::DecodeStoreMessage(frame);
  hora::fuzz::Require(again && *again == *message);
  return 0;
}

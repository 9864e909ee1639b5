// Control messages between ranks.
#include "fuzz_input.h"
#include "hora/wire/codec.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const hora::fuzz::Input input(data, size);
  const auto message = hora::Decode(input.rest());
  if (!message) return 0;
  // What can be read can be written, and read again.
  std::vector<std::byte> frame;
  hora::fuzz::Require(hora::Encode(*message, frame).ok() && hora::Decode(frame).has_value());
  return 0;
}

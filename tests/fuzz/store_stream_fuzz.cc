// What a member of the job says to the store, cut into messages.
#include "fuzz_input.h"
#include "hora/net/store_stream.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  const fuzz::Input input(data, size);
  auto [member, store] = fuzz::ChannelPair(Protection::kChecksum);
  fuzz::SayAndLeave(std::move(member), input.rest());
  StoreStream stream(std::move(store), kMaxStoreRequestBytes);
  for (std::size_t messages = 0;; ++messages) {
    fuzz::Require(messages <= size / 4);  // each has a length
    const auto message = stream.Receive();
    // The last thing is that the member has gone.
    if (!message) {
      fuzz::Require(!message.error().message().empty());
      return 0;
    }
    fuzz::Require(message->has_value());
  }
}

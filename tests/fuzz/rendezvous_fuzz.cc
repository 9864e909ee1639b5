// What is said on the Unix sockets of a host group.
#include "fuzz_input.h"
#include "hora/control/rendezvous_message.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  const fuzz::Input input(data, size);
  auto [stranger, own] = fuzz::SocketPair();
  fuzz::Feed(stranger.get(), input.rest());
  stranger = UniqueFd();
  Hello hello;
  MessageReader reader;
  if (reader.Read(own.get(), std::as_writable_bytes(std::span(&hello, 1))) != Progress::kComplete) {
    return 0;
  }
  (void)SameKey(hello.key, KeyBytes{});
  reader.Reset();
  Notice notice;
  if (reader.Read(own.get(), std::as_writable_bytes(std::span(&notice, 1))) ==
      Progress::kComplete) {
    const Status cause = notice.cause();
    fuzz::Require(!cause.ok() && cause.message().size() <= notice.text.size());
  }
  return 0;
}

// Either end of a handshake, with or without a right hello before what the fuzzer says: it never
// ends well for somebody who has no key.
#include "fuzz_input.h"
#include "hora/net/hello.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  using Role = Handshake::Role;
  fuzz::Input input(data, size);
  const std::uint8_t choice = input.TakeByte();
  const Protection protection = fuzz::ChooseProtection(choice & 0x0f);
  const Role role = (choice & 0x10) != 0 ? Role::kDialler : Role::kListener;
  const Handshake::Options options = fuzz::OptionsOf(role, protection);

  auto [stranger, own] = fuzz::SocketPair();
  Handshake handshake(std::move(own), options);
  handshake.Advance();
  if ((choice & 0x20) != 0) {
    const auto hello =
        EncodeHello({.protection = protection,
                     .role = role == Role::kDialler ? Role::kListener : Role::kDialler,
                     .job_id = "fuzz",
                     .nonce = {std::byte{1}}},
                    options.credentials.key);
    fuzz::Feed(stranger.get(), *hello);
    handshake.Advance();
  }
  fuzz::Feed(stranger.get(), input.rest());
  for (int i = 0; i < 4; ++i) handshake.Advance();
  stranger = UniqueFd();
  fuzz::Require(handshake.Advance() == Handshake::Progress::kFailed && !handshake.is_member());
  fuzz::Require(!handshake.failure().message().empty());
  return 0;
}

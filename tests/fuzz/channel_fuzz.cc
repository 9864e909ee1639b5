// Records of every protection: right ones, then the fuzzer's bytes on the wire.
#include <algorithm>
#include <vector>

#include "fuzz_input.h"
#include "hora/net/channel.h"

namespace {

// What was written properly is delivered unchanged; nothing that was not is, except under
// kChecksum, which is no protection from somebody who computes one.
void ReadToTheEnd(hora::Channel& channel, std::span<const std::byte> sent, std::size_t piece) {
  std::vector<std::byte> got(1u << 16);
  std::size_t delivered = 0;
  for (;;) {
    const auto into = std::span(got).subspan(0, std::min(piece, got.size()));
    const auto count = channel.Read(into);
    if (!count || *count == 0) break;
    for (std::size_t i = 0; i < *count && delivered + i < sent.size(); ++i) {
      hora::fuzz::Require(got[i] == sent[delivered + i]);
    }
    delivered += *count;
  }
  hora::fuzz::Require(delivered >= sent.size());
  hora::fuzz::Require(delivered == sent.size() ||
                      channel.protection() == hora::Protection::kChecksum);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  fuzz::Input input(data, size);
  const Protection protection = fuzz::ChooseProtection(input.TakeByte());
  const std::size_t piece = 1 + std::size_t{input.TakeByte()} * 37;
  const std::size_t properly = std::min<std::size_t>(input.TakeByte(), input.rest().size());

  auto [sender, receiver] = fuzz::ChannelPair(protection);
  const auto sent = input.rest().first(properly);
  fuzz::Require(sender.Write(sent) == properly && sender.Flush());
  fuzz::Feed(sender.fd(), input.rest().subspan(properly));
  ReadToTheEnd(receiver, sent, piece);
  return 0;
}

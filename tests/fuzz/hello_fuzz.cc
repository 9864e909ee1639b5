// The first and only bytes that are read of a stranger, and introductions.
#include <algorithm>

#include "fuzz_input.h"
#include "hora/net/hello.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  const fuzz::Input input(data, size);
  const JobKey key;
  const NetworkHello ours{.job_id = "fuzz"};
  HelloBytes hello{};
  std::copy_n(input.rest().begin(), std::min(size, hello.size()), hello.begin());
  (void)MayBeHello(input.rest());
  const Result<NetworkHello> read = CheckHello(hello, ours, key);
  fuzz::Require(read || !read.error().message().empty());

  // Of a member, who knows how to seal whatever it says.
  fuzz::Input words(data, size);
  NetworkHello theirs{.version = words.TakeByte(),
                      .protection = static_cast<Protection>(words.TakeByte()),
                      .role = static_cast<Handshake::Role>(words.TakeByte())};
  for (const std::byte letter : words.rest()) theirs.job_id += static_cast<char>(letter);
  if (const auto sealed = EncodeHello(theirs, key)) {
    const Result<NetworkHello> believed = CheckHello(*sealed, ours, key);
    fuzz::Require(believed ? believed->job_id == "fuzz" : !believed.error().message().empty());
  }

  IntroductionBytes introduction{};
  std::copy_n(input.rest().begin(), std::min(size, introduction.size()), introduction.begin());
  const Result<Introduction> decoded = DecodeIntroduction(introduction);
  fuzz::Require(!decoded || EncodeIntroduction(*decoded) == introduction);
  return 0;
}

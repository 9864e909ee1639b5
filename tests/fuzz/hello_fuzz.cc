// The first and only bytes that are read of a stranger, and introductions.
#include <algorithm>

#include "fuzz_input.h"
#include "hora/net/hello.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  const fuzz::Input input(data, size);
  const JobKey key{};
  const NetworkHello ours{.job_id = "fuzz"};
  HelloBytes hello{};
  std::copy_n(input.rest().begin(), std::min(size, hello.size()), hello.begin());
  (void)MayBeHello(input.rest());
  const Result<NetworkHello> read = CheckHello(hello, ours, key);
  fuzz::Require(read || !read.error().message().empty());

  IntroductionBytes introduction{};
  std::copy_n(input.rest().begin(), std::min(size, introduction.size()), introduction.begin());
  const Result<Introduction> decoded = DecodeIntroduction(introduction);
  fuzz::Require(!decoded || EncodeIntroduction(*decoded) == introduction);
  return 0;
}

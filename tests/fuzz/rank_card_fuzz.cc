// What ranks tell each other of themselves where they meet.
#include "fuzz_input.h"
#include "hora/wire/rank_card.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hora;
  const auto card = DecodeRankCard({reinterpret_cast<const char*>(data), size});
  if (!card) return 0;
  fuzz::Require(0 <= card->local_rank && card->local_rank < card->local_size);
  const auto again = DecodeRankCard(Encode(*card));
  fuzz::Require(again && *again == *card);
  return 0;
}

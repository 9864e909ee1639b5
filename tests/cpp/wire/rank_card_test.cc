#include "hora/wire/rank_card.h"

#include <gtest/gtest.h>

#include <limits>

namespace hora {
namespace {

RankCard Sample() {
  return {.version = "1.2.3",
          .local_rank = 1,
          .local_size = 4,
          .host = "north",
          .address = "10.0.0.1:4711",
          .rendezvous = "hora-00ff",
          .engine = "tcp",
          .data_plane = "tls",
          .tunables = {.tuning = {.fusion_threshold_bytes = 1,
                                  .chunk_bytes = 2,
                                  .small_allreduce_bytes = 3,
                                  .urgent_bytes = 4},
                       .window_bytes = 5,
                       .cache_capacity = 6,
                       .tree_fan_out = 7,
                       .join_divides_by_size = 1}};
}

TEST(RankCard, ComesBackAsItWent) {
  const auto card = DecodeRankCard(Encode(Sample()));
  ASSERT_TRUE(card) << card.error().ToString();
  EXPECT_EQ(*card, Sample());
}

TEST(RankCard, EveryCutAndEveryFlippedBitIsACardOrAnError) {
  const std::string whole = Encode(Sample());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    (void)DecodeRankCard(std::string(whole, 0, size));
  }
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    const auto card = DecodeRankCard(flipped);
    EXPECT_LT(card ? card->local_rank : 0, card ? card->local_size : 1);
  }
  EXPECT_FALSE(DecodeRankCard(""));
}

TEST(RankCard, IsReadWhereverItLies) {
  const std::string shifted = "x" + Encode(Sample());
  const auto card = DecodeRankCard(std::string_view(shifted).substr(1));
  ASSERT_TRUE(card) << card.error().ToString();
  EXPECT_EQ(*card, Sample());
}

TEST(RankCard, APlaceOutsideItsHostIsRefused) {
  for (const int local_rank : {-1, 4, std::numeric_limits<int>::max()}) {
    RankCard card = Sample();
    card.local_rank = local_rank;
    const auto decoded = DecodeRankCard(Encode(card));
    ASSERT_FALSE(decoded);
    EXPECT_EQ(decoded.error().code(), StatusCode::kInternal);
  }
}

}  // namespace
}  // namespace hora

#include "hora/tensor/rank_names.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(RankNames, TheGlobalSetNamesRanksByTheirNumber) {
  const RankNames names;
  EXPECT_TRUE(names.is_global());
  EXPECT_EQ(names.Of(7), 7);
  EXPECT_EQ(names.Of(RankSet::AllOf(3)).ToString(), "0-2");
  EXPECT_EQ(names.PlaceOf(7), 7);
}

TEST(RankNames, ASubsetHasNamesOfItsOwn) {
  const RankNames names({1, 4, 70, 71});
  EXPECT_FALSE(names.is_global());
  EXPECT_EQ(names.Of(2), 70);
  EXPECT_EQ(names.Of(RankSet::AllOf(4)).ToString(), "1, 4, 70-71");
  EXPECT_TRUE(names.Of(RankSet()).empty());
  EXPECT_EQ(names.PlaceOf(70), 2);
  EXPECT_EQ(names.PlaceOf(2), -1);
  EXPECT_EQ(names.global_ranks(), (std::vector<int>{1, 4, 70, 71}));
}

// A set lists its ranks in the order of their places, whatever their numbers.
TEST(RankNames, PlacesNeedNotAscend) {
  const RankNames names({5, 2});
  EXPECT_EQ(names.Of(0), 5);
  EXPECT_EQ(names.Of(RankSet::Of(0)).ToString(), "5");
  EXPECT_EQ(names.Of(RankSet::AllOf(2)).ToString(), "2, 5");
}

}  // namespace
}  // namespace hora

#include "hora/base/rank_set.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "hora/base/check.h"

namespace hora {
namespace {

RankSet SetOf(std::initializer_list<int> ranks) {
  RankSet set;
  for (const int rank : ranks) set.Add(rank);
  return set;
}

TEST(RankSet, StartsEmpty) {
  const RankSet set;
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.count(), 0);
  EXPECT_EQ(set.ranks(), std::vector<int>{});
  EXPECT_EQ(set.ToString(), "none");
}

TEST(RankSet, PrintsRunsAsRanges) {
  EXPECT_EQ(SetOf({0, 2, 3}).ToString(), "0, 2-3");
  EXPECT_EQ(SetOf({5}).ToString(), "5");
  EXPECT_EQ(SetOf({62, 63, 64, 65, 200}).ToString(), "62-65, 200");
}

TEST(RankSet, HoldsAllOfASize) {
  for (const int size : {0, 1, 2, 63, 64, 65, 128, 1000}) {
    const RankSet all = RankSet::AllOf(size);
    EXPECT_EQ(all.count(), size);
    EXPECT_EQ(all.Contains(size - 1), size > 0);
    EXPECT_FALSE(all.Contains(size));
    EXPECT_EQ(all.empty(), size == 0);
  }
}

TEST(RankSet, EqualSetsAreEqualHoweverTheyCameAbout) {
  RankSet set = SetOf({1, 500});
  set.Remove(500);
  EXPECT_EQ(set, RankSet::Of(1));
  EXPECT_EQ(set.words().size(), 1u);
  EXPECT_EQ(RankSet::FromWords({2, 0, 0}), RankSet::Of(1));
  EXPECT_EQ(RankSet::FromWords(SetOf({3, 99}).words()), SetOf({3, 99}));
  RankSet all = RankSet::AllOf(130);
  all.Remove(RankSet::AllOf(130));
  EXPECT_EQ(all, RankSet());
}

TEST(RankSet, UnitesAndSubtracts) {
  RankSet set = SetOf({0, 70});
  set.Add(SetOf({1, 200}));
  EXPECT_EQ(set, SetOf({0, 1, 70, 200}));
  set.Remove(SetOf({0, 200, 4000}));
  EXPECT_EQ(set, SetOf({1, 70}));
}

TEST(RankSet, RanksAreNotNegative) {
  RankSet set = RankSet::AllOf(3);
  EXPECT_FALSE(set.Contains(-1));
  set.Remove(-1);
  EXPECT_EQ(set, RankSet::AllOf(3));
  EXPECT_THROW(set.Add(-1), InvariantError);
  EXPECT_THROW(RankSet::AllOf(-1), InvariantError);
}

TEST(RankSet, BehavesLikeASetOfIntegers) {
  std::mt19937 random(11);
  std::set<int> model;
  RankSet set;
  for (int step = 0; step < 5000; ++step) {
    const int rank = static_cast<int>(random() % 300);
    if (random() % 2 == 0) {
      set.Add(rank);
      model.insert(rank);
    } else {
      set.Remove(rank);
      model.erase(rank);
    }
    ASSERT_EQ(set.count(), static_cast<int>(model.size()));
    ASSERT_EQ(set.Contains(rank), model.count(rank) == 1);
  }
  EXPECT_EQ(set.ranks(), std::vector<int>(model.begin(), model.end()));
}

}  // namespace
}  // namespace hora

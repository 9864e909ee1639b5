#include "hora/negotiation/tree_position.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace hora {
namespace {

TEST(TreePosition, ParentsAndChildrenAgree) {
  for (const int size : {1, 2, 3, 9, 10, 64, 1000}) {
    for (const int fan_out : {1, 2, 3, 8, 1024}) {
      for (int rank = 0; rank < size; ++rank) {
        const TreePosition own = TreePosition::Of(rank, size, fan_out);
        EXPECT_EQ(own.is_root(), rank == 0);
        EXPECT_LE(own.children.size(), static_cast<std::size_t>(fan_out));
        if (rank == 0) continue;
        const TreePosition parent = TreePosition::Of(own.parent, size, fan_out);
        EXPECT_EQ(std::count(parent.children.begin(), parent.children.end(), rank), 1);
      }
    }
  }
}

TEST(TreePosition, SubtreesPartitionTheRanks) {
  for (const int fan_out : {1, 2, 5}) {
    for (int rank = 0; rank < 50; ++rank) {
      const TreePosition own = TreePosition::Of(rank, 50, fan_out);
      RankSet below = RankSet::Of(rank);
      int count = 1;
      for (const int child : own.children) {
        const RankSet subtree = own.SubtreeOf(child);
        below.Add(subtree);
        count += subtree.count();
      }
      EXPECT_EQ(below, own.SubtreeOf(rank));
      EXPECT_EQ(count, below.count());
    }
    EXPECT_EQ(TreePosition::Of(0, 50, fan_out).SubtreeOf(0), RankSet::AllOf(50));
  }
}

TEST(TreePosition, TheLargestWorldHasAPlaceForEveryone) {
  const TreePosition last = TreePosition::Of(131071, 131072, 8);
  EXPECT_EQ(last.parent, 16383);
  EXPECT_TRUE(last.children.empty());
}

}  // namespace
}  // namespace hora

#include "hora/negotiation/tree_position.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

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

TEST(TreePosition, SubtreesPartitionTheRanksEvenly) {
  for (const int fan_out : {1, 2, 5}) {
    for (int rank = 0; rank < 50; ++rank) {
      const TreePosition own = TreePosition::Of(rank, 50, fan_out);
      int next = rank + 1;
      int fewest = 50;
      int most = 0;
      for (const int child : own.children) {
        const RankRange subtree = own.SubtreeOf(child);
        EXPECT_EQ(subtree.first, next);
        EXPECT_EQ(subtree, TreePosition::Of(child, 50, fan_out).subtree);
        next = subtree.end;
        fewest = std::min(fewest, subtree.count());
        most = std::max(most, subtree.count());
      }
      EXPECT_EQ(own.subtree, (RankRange{rank, next}));
      EXPECT_LE(most, fewest + 1);  // of none, too
    }
    EXPECT_EQ(TreePosition::Of(0, 50, fan_out).subtree, (RankRange{0, 50}));
  }
}

TEST(TreePosition, IsAsLowAsItsFanOutAllows) {
  const auto depth = [](int rank, int size, int fan_out) {
    int hops = 0;
    while (rank != 0) {
      rank = TreePosition::Of(rank, size, fan_out).parent;
      ++hops;
    }
    return hops;
  };
  const auto deepest = [&](int size, int fan_out) {
    int hops = 0;
    for (int rank = 0; rank < size; ++rank) hops = std::max(hops, depth(rank, size, fan_out));
    return hops;
  };
  EXPECT_EQ(deepest(1, 2), 0);
  EXPECT_EQ(deepest(9, 8), 1);
  EXPECT_EQ(deepest(10, 8), 2);
  EXPECT_EQ(deepest(73, 8), 2);
  EXPECT_EQ(deepest(74, 8), 3);
  EXPECT_EQ(deepest(127, 2), 6);
  EXPECT_LE(depth(131071, 131072, 8), 6);
}

TEST(RankRange, BecomesASet) {
  EXPECT_EQ((RankRange{70, 73}).ToSet().ToString(), "70-72");
  EXPECT_EQ((RankRange{0, 64}).ToSet(), RankSet::AllOf(64));
  EXPECT_TRUE((RankRange{5, 5}).ToSet().empty());
}

TEST(TreePosition, OnSeveralHostsFirstRanksLeadTheirHosts) {
  for (const std::vector<int>& sizes :
       {std::vector<int>{2, 2}, {3, 1, 4, 1, 5}, std::vector<int>(9, 3), {1, 1, 1}, {6}}) {
    const HostLayout layout(sizes);
    for (const int fan_out : {1, 2, 8}) {
      for (int rank = 0; rank < layout.size(); ++rank) {
        const TreePosition own = TreePosition::Of(rank, layout, fan_out);
        const bool leads = layout.local_of(rank) == 0;
        EXPECT_EQ(own.is_root(), rank == 0);
        EXPECT_LE(own.children.size(), static_cast<std::size_t>(fan_out * (leads ? 2 : 1)));
        if (rank != 0) {
          const TreePosition parent = TreePosition::Of(own.parent, layout, fan_out);
          EXPECT_EQ(std::count(parent.children.begin(), parent.children.end(), rank), 1);
          const bool crosses = layout.host_of(rank) != layout.host_of(own.parent);
          EXPECT_EQ(crosses, leads);
          EXPECT_TRUE(!crosses || layout.local_of(own.parent) == 0);
        }
        int next = rank + 1;
        for (const int child : own.children) {
          EXPECT_EQ(own.SubtreeOf(child), TreePosition::Of(child, layout, fan_out).subtree);
          EXPECT_EQ(child, next);
          next = own.SubtreeOf(child).end;
        }
        EXPECT_EQ(own.subtree, (RankRange{rank, next}));
      }
    }
  }
}

}  // namespace
}  // namespace hora

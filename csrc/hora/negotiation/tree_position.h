// One rank's place in the control tree.
#pragma once

#include <vector>

#include "hora/base/rank_set.h"
#include "hora/tensor/host_layout.h"

namespace hora {

// Ranks [first, end).
struct RankRange {
  int first = 0;
  int end = 0;

  bool Contains(int rank) const { return rank >= first && rank < end; }
  int count() const { return end - first; }
  RankSet ToSet() const;  // memory: a bit for every rank below `end`

  friend bool operator==(const RankRange&, const RankRange&) = default;
};

// Numbered from the top, each subtree before the next one, so that a subtree is a range of ranks:
// to know who is below a node costs two numbers, however many they are, and ranks that are close
// together, as those of a host are, meet low in the tree. A node's subtrees differ by one rank at
// most; with n ranks the tree is as low as its fan-out allows.
struct TreePosition {
  int rank = 0;
  int size = 1;
  int parent = -1;            // -1: the root
  std::vector<int> children;  // ascending
  RankRange subtree{0, 1};    // this rank and everyone below it

  bool is_root() const { return parent < 0; }
  RankRange SubtreeOf(int child) const;  // of one of `children`
  static TreePosition Of(int rank, int size, int fan_out);
  // On several hosts: a tree of the hosts' first ranks, each above the tree of its own host. A
  // message crosses between hosts once for a whole host; subtrees are ranges as before. A first
  // rank may have twice as many children.
  static TreePosition Of(int rank, const HostLayout& layout, int fan_out);
};

}  // namespace hora

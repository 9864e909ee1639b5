// One rank's place in the control tree.
#pragma once

#include <vector>

#include "hora/base/rank_set.h"

namespace hora {

// Heap-shaped: the parent of r is (r-1)/fan_out, its children r·fan_out+1 … r·fan_out+fan_out.
struct TreePosition {
  int rank = 0;
  int size = 1;
  int parent = -1;            // -1: the root
  std::vector<int> children;  // ascending
  int fan_out = 8;

  bool is_root() const { return parent < 0; }

  static TreePosition Of(int rank, int size, int fan_out);
  RankSet SubtreeOf(int top) const;  // `top` and everyone below it
};

}  // namespace hora

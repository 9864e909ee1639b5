#include "hora/negotiation/tree_position.h"

#include <algorithm>
#include <cstdint>

#include "hora/base/check.h"

namespace hora {
namespace {

// Part `index` of so many of [first, end); the first ones are longer when they cannot be equal.
RankRange PartOf(RankRange range, int parts, int index) {
  const int share = range.count() / parts;
  const int longer = range.count() % parts;
  const int first = range.first + index * share + std::min(index, longer);
  return {first, first + share + (index < longer ? 1 : 0)};
}

}  // namespace

RankSet RankRange::ToSet() const {
  RankSet set = RankSet::AllOf(end);
  if (first > 0) set.Remove(RankSet::AllOf(first));
  return set;
}

TreePosition TreePosition::Of(int rank, int size, int fan_out) {
  Check(size >= 1 && rank >= 0 && rank < size && fan_out >= 1, "a rank has a place in its tree");
  TreePosition position{.rank = rank, .size = size, .subtree = {0, size}};
  while (true) {
    const int top = position.subtree.first;
    const RankRange below{top + 1, position.subtree.end};
    const int parts = std::min(fan_out, below.count());
    for (int i = 0; i < parts; ++i) {
      const RankRange part = PartOf(below, parts, i);
      if (top == rank) position.children.push_back(part.first);
      if (!part.Contains(rank)) continue;
      position.parent = top;
      position.subtree = part;
      break;
    }
    if (position.subtree.first == top) return position;
  }
}

TreePosition TreePosition::Of(int rank, const HostLayout& layout, int fan_out) {
  const int host = layout.host_of(rank);
  const int first = layout.first_of(host);
  TreePosition position = Of(rank - first, layout.size_of(host), fan_out);
  position.rank = rank;
  position.size = layout.size();
  if (position.parent >= 0) position.parent += first;
  for (int& child : position.children) child += first;
  position.subtree = {position.subtree.first + first, position.subtree.end + first};
  if (rank != first) return position;
  const TreePosition above = Of(host, layout.hosts(), fan_out);
  if (!above.is_root()) position.parent = layout.first_of(above.parent);
  for (const int child : above.children) position.children.push_back(layout.first_of(child));
  const int last = above.subtree.end - 1;
  position.subtree.end = layout.first_of(last) + layout.size_of(last);
  return position;
}

RankRange TreePosition::SubtreeOf(int child) const {
  const auto next = std::upper_bound(children.begin(), children.end(), child);
  return {child, next == children.end() ? subtree.end : *next};
}

}  // namespace hora

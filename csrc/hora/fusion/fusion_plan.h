// Which agreed tensors travel together: a pure function of agreed data, so it never travels itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hora/wire/agreed.h"

namespace hora {

struct Batch {
  // One tensor of one planned response.
  struct Member {
    std::uint32_t response = 0;
    std::uint32_t tensor = 0;

    friend bool operator==(const Member&, const Member&) = default;
  };

  OpParams params;              // of its first member; shape and rest mean nothing
  std::vector<Member> members;  // ascending
  // allgather: totals per rank. reducescatter: what each rank receives. alltoall: empty, known only
  // when it runs. Otherwise one entry, the total.
  std::vector<std::uint64_t> bytes_per_rank;
};

// Rows [first, first + count) of a reducescatter over `rows` rows that `rank` of `size` receives:
// the first rows % size ranks get one more.
struct RowRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
};
RowRange RowsOfRank(std::int64_t rows, int rank, int size);

// Responses with an error are left out. Members of a batch agree in everything but the shape (for
// broadcast, the dtype may differ too) and in who is absent; a batch is at most `threshold_bytes`,
// unless it has one member or one group, whose tensors of one dtype are never torn apart; barriers,
// joins and alltoalls stay alone. Batches are ordered by their first member. 0 turns fusion off.
std::vector<Batch> PlanFusion(std::span<const Agreed> agreed, int size,
                              std::size_t threshold_bytes);

// The plan of what was agreed last, kept because a training step agrees on the same again and
// again: a repeated sequence is recognised by its responses, which are shared and never change, and
// plans nothing. One thread at a time.
class FusionPlan {
 public:
  explicit FusionPlan(int size) : size_(size) {}

  // What PlanFusion says; until the next call.
  std::span<const Batch> For(std::span<const Agreed> agreed, std::size_t threshold_bytes);

 private:
  int size_;
  std::size_t threshold_bytes_ = 0;
  std::vector<SharedResponse> responses_;
  std::vector<Batch> batches_;
};

}  // namespace hora

#include "hora/fusion/fusion_plan.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "hora/base/check.h"

namespace hora {
namespace {

using Members = std::span<const Batch::Member>;

// How many numbers Batch::bytes_per_rank has.
std::size_t ByteCounts(OpKind kind, int size) {
  if (kind == OpKind::kAlltoall) return 0;
  const bool by_rank = kind == OpKind::kAllgather || kind == OpKind::kReducescatter;
  return by_rank ? static_cast<std::size_t>(size) : 1;
}

// Calls add(rank, bytes) for what each rank has of one tensor; with rank 0 for all of them where
// they do not differ.
template <class Add>
void ForEachCount(const Response& response, std::uint32_t tensor, int size, Add&& add) {
  const OpParams& params = response.params;
  const Shape& shape = params.shape_of(tensor);
  const std::uint64_t element = SizeOf(params.dtype_of(tensor));
  switch (params.kind) {
    case OpKind::kBarrier:
    case OpKind::kJoin:
    case OpKind::kAlltoall:
      return;
    case OpKind::kAllreduce:
    case OpKind::kBroadcast:
      return add(0, static_cast<std::uint64_t>(shape.num_elements()) * element);
    case OpKind::kAllgather:
    case OpKind::kReducescatter:
      break;
  }
  const std::uint64_t row = static_cast<std::uint64_t>(shape.elements_per_row()) * element;
  const std::size_t tensors = params.tensor_count();
  const bool gathers = params.kind == OpKind::kAllgather;
  Check(!gathers || response.first_dims.size() == static_cast<std::size_t>(size) * tensors,
        "an agreed allgather states the rows of every rank");
  for (int rank = 0; rank < size; ++rank) {
    const std::int64_t rows =
        gathers ? response.first_dims[static_cast<std::size_t>(rank) * tensors + tensor]
                : RowsOfRank(shape.dim(0), rank, size).count;
    add(rank, static_cast<std::uint64_t>(rows) * row);
  }
}

bool StaysAlone(OpKind kind) {
  return kind == OpKind::kBarrier || kind == OpKind::kJoin || kind == OpKind::kAlltoall;
}

// Plans one agreement's worth of responses.
class Planner {
 public:
  Planner(std::span<const Agreed> agreed, int size, std::size_t threshold_bytes)
      : agreed_(agreed), size_(size), threshold_bytes_(threshold_bytes) {}

  std::vector<Batch> Plan() {
    for (std::uint32_t i = 0; i < agreed_.size(); ++i) {
      const OpParams& params = agreed_[i]->params;
      if (!agreed_[i]->error.ok()) continue;
      if (params.rest.empty()) {
        const Batch::Member alone{i, 0};
        Place({&alone, 1});
      } else {
        PlaceGroup(i);
      }
    }
    return std::move(plan_);
  }

 private:
  // A batch that may still grow.
  struct OpenBatch {
    std::size_t index;  // in the plan
    std::uint64_t bytes;
  };

  const Response& ResponseOf(const Batch::Member& member) const {
    return *agreed_[member.response];
  }

  // The tensors of each dtype are one unit, in the order of their first ones.
  void PlaceGroup(std::uint32_t response) {
    const OpParams& params = agreed_[response]->params;
    const auto tensors = static_cast<std::uint32_t>(params.tensor_count());
    std::array<bool, kDTypeCount> placed{};
    for (std::uint32_t first = 0; first < tensors; ++first) {
      const DType dtype = params.dtype_of(first);
      if (std::exchange(placed[static_cast<std::size_t>(dtype)], true)) continue;
      unit_.clear();
      for (std::uint32_t tensor = first; tensor < tensors; ++tensor) {
        if (params.dtype_of(tensor) == dtype) unit_.push_back({response, tensor});
      }
      Place(unit_);
    }
  }

  // Whether the unit may travel in this batch. A broadcast moves bytes and does not care what they
  // mean.
  bool Fusable(const Batch& batch, const Batch::Member& first) const {
    const OpParams& a = batch.params;
    const OpParams& b = ResponseOf(first).params;
    return a.kind == b.kind && !StaysAlone(a.kind) &&
           (a.dtype == b.dtype_of(first.tensor) || a.kind == OpKind::kBroadcast) &&
           a.reduce_op == b.reduce_op && a.root_rank == b.root_rank && a.prescale == b.prescale &&
           a.postscale == b.postscale && a.device == b.device &&
           ResponseOf(batch.members.front()).absent == ResponseOf(first).absent;
  }

  void Place(Members unit) {
    std::uint64_t bytes = 0;
    for (const Batch::Member& member : unit) {
      ForEachCount(ResponseOf(member), member.tensor, size_,
                   [&](int, std::uint64_t count) { bytes += count; });
    }
    OpenBatch* like_this = nullptr;
    for (OpenBatch& batch : open_) {
      if (Fusable(plan_[batch.index], unit.front())) like_this = &batch;
    }
    if (like_this != nullptr && bytes <= threshold_bytes_ - like_this->bytes) {
      Append(plan_[like_this->index], unit);
      like_this->bytes += bytes;
      return;
    }
    Append(Begin(unit.front()), unit);
    // One that fills a batch by itself leaves the open one open.
    if (bytes >= threshold_bytes_ || StaysAlone(plan_.back().params.kind)) return;
    const OpenBatch opened{plan_.size() - 1, bytes};
    if (like_this != nullptr) {
      *like_this = opened;
    } else {
      open_.push_back(opened);
    }
  }

  Batch& Begin(const Batch::Member& first) {
    const OpParams& params = ResponseOf(first).params;
    Batch& batch = plan_.emplace_back();
    batch.params = {.kind = params.kind,
                    .dtype = params.dtype_of(first.tensor),
                    .reduce_op = params.reduce_op,
                    .root_rank = params.root_rank,
                    .prescale = params.prescale,
                    .postscale = params.postscale,
                    .device = params.device};
    batch.bytes_per_rank.resize(ByteCounts(params.kind, size_));
    return batch;
  }

  void Append(Batch& batch, Members unit) {
    batch.members.insert(batch.members.end(), unit.begin(), unit.end());
    for (const Batch::Member& member : unit) {
      ForEachCount(ResponseOf(member), member.tensor, size_, [&](int rank, std::uint64_t bytes) {
        batch.bytes_per_rank[static_cast<std::size_t>(rank)] += bytes;
      });
    }
  }

  const std::span<const Agreed> agreed_;
  const int size_;
  const std::size_t threshold_bytes_;
  std::vector<Batch> plan_;
  std::vector<OpenBatch> open_;      // few: one per distinct set of parameters
  std::vector<Batch::Member> unit_;  // of a group
};

}  // namespace

RowRange RowsOfRank(std::int64_t rows, int rank, int size) {
  const std::int64_t share = rows / size;
  const std::int64_t longer = rows % size;  // ranks that get one more
  return {rank * share + std::min<std::int64_t>(rank, longer), share + (rank < longer ? 1 : 0)};
}

// Next fit: each kind of batch has one that is open, and it closes for good when a unit no longer
// fits. So members of a batch stay close together in the agreed order, and what was agreed early
// completes early. The limit counts the bytes of all ranks.
std::vector<Batch> PlanFusion(std::span<const Agreed> agreed, int size,
                              std::size_t threshold_bytes) {
  return Planner(agreed, size, threshold_bytes).Plan();
}

std::span<const Batch> FusionPlan::For(std::span<const Agreed> agreed,
                                       std::size_t threshold_bytes) {
  const bool repeats = threshold_bytes == threshold_bytes_ &&
                       std::ranges::equal(agreed, responses_, {}, &Agreed::response);
  if (repeats) return batches_;
  batches_ = PlanFusion(agreed, size_, threshold_bytes);
  threshold_bytes_ = threshold_bytes;
  responses_.clear();
  for (const Agreed& each : agreed) responses_.push_back(each.response);
  return batches_;
}

}  // namespace hora

#include "hora/fusion/fusion_plan.h"

#include <cstdint>

#include "hora/base/check.h"

namespace hora {
namespace {

std::vector<std::uint64_t> BytesPerRank(const Response& response, int size) {
  const OpParams& params = response.params;
  const std::uint64_t element = SizeOf(params.dtype);
  if (params.kind == OpKind::kBarrier) return {0};
  if (params.kind != OpKind::kAllgather) {
    return {static_cast<std::uint64_t>(params.shape.num_elements()) * element};
  }
  Check(response.first_dims.size() == static_cast<std::size_t>(size),
        "an agreed allgather states the rows of every rank");
  const std::uint64_t row = static_cast<std::uint64_t>(params.shape.elements_per_row()) * element;
  std::vector<std::uint64_t> bytes;
  bytes.reserve(response.first_dims.size());
  for (const std::int64_t rows : response.first_dims) {
    bytes.push_back(static_cast<std::uint64_t>(rows) * row);
  }
  return bytes;
}

std::uint64_t Total(const std::vector<std::uint64_t>& bytes_per_rank) {
  std::uint64_t total = 0;
  for (const std::uint64_t bytes : bytes_per_rank) total += bytes;
  return total;
}

// Whether tensors with these parameters may travel in one batch. A broadcast moves bytes and does
// not care what they mean.
bool Fusable(const OpParams& a, const OpParams& b) {
  return a.kind == b.kind && a.kind != OpKind::kBarrier &&
         (a.dtype == b.dtype || a.kind == OpKind::kBroadcast) && a.reduce_op == b.reduce_op &&
         a.root_rank == b.root_rank && a.prescale == b.prescale && a.postscale == b.postscale &&
         a.device == b.device;
}

// A batch that may still grow.
struct OpenBatch {
  std::size_t index;  // in the plan
  std::uint64_t bytes;
};

}  // namespace

// Next fit: each kind of batch has one that is open, and it closes for good when a tensor no longer
// fits. So members of a batch stay close together in the agreed order, and what was agreed early
// completes early. The limit counts the bytes of all ranks.
std::vector<Batch> PlanFusion(std::span<const Response> responses, int size,
                              std::size_t threshold_bytes) {
  std::vector<Batch> plan;
  std::vector<OpenBatch> open;  // few: one per distinct set of parameters
  for (std::uint32_t i = 0; i < responses.size(); ++i) {
    const Response& response = responses[i];
    if (!response.error.ok()) continue;
    std::vector<std::uint64_t> bytes_per_rank = BytesPerRank(response, size);
    const std::uint64_t bytes = Total(bytes_per_rank);

    OpenBatch* like_this = nullptr;
    for (OpenBatch& batch : open) {
      if (Fusable(plan[batch.index].params, response.params)) like_this = &batch;
    }
    if (like_this != nullptr && bytes <= threshold_bytes - like_this->bytes) {
      Batch& batch = plan[like_this->index];
      batch.members.push_back(i);
      for (std::size_t r = 0; r < bytes_per_rank.size(); ++r) {
        batch.bytes_per_rank[r] += bytes_per_rank[r];
      }
      like_this->bytes += bytes;
      continue;
    }
    plan.push_back({response.params, {i}, std::move(bytes_per_rank)});
    // One that fills a batch by itself leaves the open one open.
    if (bytes >= threshold_bytes || response.params.kind == OpKind::kBarrier) continue;
    const OpenBatch opened{plan.size() - 1, bytes};
    if (like_this != nullptr) {
      *like_this = opened;
    } else {
      open.push_back(opened);
    }
  }
  return plan;
}

}  // namespace hora

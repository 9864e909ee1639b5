#include "hora/engine/executor.h"

#include <numeric>
#include <utility>

#include "hora/base/check.h"
#include "hora/fusion/fusion_plan.h"

namespace hora {
namespace {

// An allgather's output, whose size only became known with the agreement; data is still null.
TensorView GatheredView(const Response& response) {
  const std::int64_t rows =
      std::accumulate(response.first_dims.begin(), response.first_dims.end(), std::int64_t{0});
  return {.dtype = response.params.dtype,
          .device = response.params.device,
          .shape = response.params.shape.WithFirstDim(rows)};
}

}  // namespace

Executor::Executor(int size, std::size_t fusion_threshold_bytes,
                   std::vector<std::unique_ptr<CollectiveBackend>> backends, TensorQueue& queue,
                   Observer& observer)
    : size_(size),
      fusion_threshold_bytes_(fusion_threshold_bytes),
      backends_(std::move(backends)),
      queue_(queue),
      observer_(observer) {}

Status Executor::Execute(std::span<const Response> responses) {
  for (const Response& response : responses) {
    observer_.OnAgreed(response.params.kind, response.name);
    if (!response.error.ok()) Complete(response.name, response.error);
  }
  for (const Batch& batch : PlanFusion(responses, size_, fusion_threshold_bytes_)) {
    if (Status status = ExecuteBatch(batch, responses); !status.ok()) return status;
  }
  return Status::Ok();
}

Status Executor::ExecuteBatch(const Batch& batch, std::span<const Response> responses) {
  const OpKind kind = batch.params.kind;
  std::vector<MemberBuffers> buffers;
  std::vector<std::shared_ptr<Gathered>> gathered(batch.members.size());
  buffers.reserve(batch.members.size());
  for (std::size_t i = 0; i < batch.members.size(); ++i) {
    const Response& response = responses[batch.members[i]];
    TensorEntry* entry = queue_.Find(response.name);
    Check(entry != nullptr, "what was agreed is pending on every rank");
    buffers.push_back({entry->input, entry->output});
    if (kind != OpKind::kAllgather) continue;
    TensorView& output = buffers.back().output = GatheredView(response);
    gathered[i] = std::make_shared<Gathered>(response.first_dims, output.nbytes());
    output.data = gathered[i]->bytes().data();
  }
  // All ranks have arrived, which is all that a barrier asks for.
  if (kind != OpKind::kBarrier) {
    CollectiveCall call{.params = batch.params,
                        .size = size_,
                        .bytes_per_rank = batch.bytes_per_rank,
                        .input = InputStream(buffers),
                        .outputs = OutputStreams(batch, responses, buffers, size_)};
    observer_.OnBatchBegin(kind, batch.members.size(), call.input.size());
    const Status status = BackendFor(batch.params).Execute(call);
    observer_.OnBatchEnd(kind, status);
    if (!status.ok()) return status;
  }
  for (std::size_t i = 0; i < batch.members.size(); ++i) {
    Complete(responses[batch.members[i]].name, Status::Ok(), std::move(gathered[i]));
  }
  return Status::Ok();
}

void Executor::Complete(std::string_view name, Status status, std::shared_ptr<Gathered> gathered) {
  const std::shared_ptr<Handle> handle = queue_.Remove(name);
  if (handle == nullptr) return;  // an error about a tensor that this rank never submitted
  observer_.OnComplete(name, status);
  handle->Complete(std::move(status), std::move(gathered));
}

CollectiveBackend& Executor::BackendFor(const OpParams& params) {
  for (const auto& backend : backends_) {
    if (backend->Supports(params)) return *backend;
  }
  Check(false, "some backend supports whatever passes CheckSubmission");
  return *backends_.front();
}

}  // namespace hora

#include "hora/observe/metrics.h"

namespace hora {
namespace {

void Add(std::atomic<std::uint64_t>& counter, std::uint64_t amount = 1) {
  counter.fetch_add(amount, std::memory_order_relaxed);
}

}  // namespace

void Metrics::OnSubmit(const OpLabel&, std::uint64_t bytes) {
  Add(submitted_);
  Add(submitted_bytes_, bytes);
}

void Metrics::OnAgreed(const OpLabel&) { Add(agreed_); }

void Metrics::OnBatchBegin(const OpLabel&, std::size_t, std::uint64_t bytes) {
  Add(batches_);
  Add(batch_bytes_, bytes);
}

void Metrics::OnInPlace(const OpLabel&, std::uint64_t bytes) { Add(in_place_bytes_, bytes); }

void Metrics::OnComplete(const OpLabel&, const Status& status) {
  Add(status.ok() ? completed_ : failed_);
}

std::vector<std::pair<std::string_view, std::uint64_t>> Metrics::Values() const {
  return {{"submitted", submitted_},     {"submitted_bytes", submitted_bytes_},
          {"agreed", agreed_},           {"completed", completed_},
          {"failed", failed_},           {"batches", batches_},
          {"batch_bytes", batch_bytes_}, {"in_place_bytes", in_place_bytes_}};
}

}  // namespace hora

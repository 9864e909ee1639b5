#include "hora/torch_ops/engine_call.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <stdexcept>
#include <utility>

#include "hora/base/format.h"
#include "hora/tensor/dtype.h"

namespace hora::torch_ops {
namespace {

std::atomic<const HoraEngineApi*> connected{nullptr};

const HoraEngineApi& Api() {
  const HoraEngineApi* api = connected.load(std::memory_order_acquire);
  if (api == nullptr) throw std::runtime_error("import hora.torch before torch.ops.hora is used");
  return *api;
}

DType ToDType(ScalarType type) {
  switch (type) {
    case ScalarType::Byte:
      return DType::kUInt8;
    case ScalarType::Char:
      return DType::kInt8;
    case ScalarType::UInt16:
      return DType::kUInt16;
    case ScalarType::Short:
      return DType::kInt16;
    case ScalarType::UInt32:
      return DType::kUInt32;
    case ScalarType::Int:
      return DType::kInt32;
    case ScalarType::UInt64:
      return DType::kUInt64;
    case ScalarType::Long:
      return DType::kInt64;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::Bool:
      return DType::kBool;
    case ScalarType::ComplexHalf:
      return DType::kComplex32;
    case ScalarType::ComplexFloat:
      return DType::kComplex64;
    case ScalarType::ComplexDouble:
      return DType::kComplex128;
    case ScalarType::Float8_e4m3fn:
      return DType::kFloat8E4M3FN;
    case ScalarType::Float8_e4m3fnuz:
      return DType::kFloat8E4M3FNUZ;
    case ScalarType::Float8_e5m2:
      return DType::kFloat8E5M2;
    case ScalarType::Float8_e5m2fnuz:
      return DType::kFloat8E5M2FNUZ;
    default:
      throw std::runtime_error(
          fmt::format("hora cannot move tensors of {}", torch::headeronly::toString(type)));
  }
}

// The caller keeps the tensor.
HoraTensor View(const Tensor& tensor) {
  return {.data = tensor.data_ptr(),
          .dtype = static_cast<std::int32_t>(ToDType(tensor.scalar_type())),
          .gpu = tensor.is_cuda() ? tensor.get_device_index() : -1,
          .ndim = static_cast<std::int32_t>(tensor.dim()),
          .dims = tensor.sizes().data()};
}

std::vector<HoraTensor> Views(const std::vector<Tensor>& tensors) {
  std::vector<HoraTensor> views;
  views.reserve(tensors.size());
  for (const Tensor& tensor : tensors) views.push_back(View(tensor));
  return views;
}

// One call of the engine, and everything that must outlive it.
class Call {
 public:
  Call(const Terms& terms, std::vector<Tensor> inputs, std::vector<Tensor> outputs)
      : inputs_(std::move(inputs)), outputs_(std::move(outputs)) {
    for (Tensor& input : inputs_) {
      if (!input.is_contiguous()) input = torch::stable::contiguous(input);
    }
    input_views_ = Views(inputs_);
    output_views_ = Views(outputs_);
    call_ = {.name = terms.name.c_str(),
             .kind = static_cast<std::int32_t>(terms.kind),
             .reduce_op = static_cast<std::int32_t>(terms.reduce_op),
             .root_rank = static_cast<std::int32_t>(terms.root_rank),
             .process_set = static_cast<std::int32_t>(terms.process_set),
             .prescale = terms.prescale,
             .postscale = terms.postscale,
             .inputs = input_views_.data(),
             .outputs = outputs_.empty() ? nullptr : output_views_.data(),
             .tensor_count = input_views_.size()};
  }
  ~Call() {
    if (result_.owner != nullptr) Api().release(&result_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const HoraResult& Run(std::span<const std::int64_t> splits = {}) {
    call_.splits = splits.data();
    call_.split_count = splits.size();
    Api().run(&call_, &result_);
    if (result_.in_use) {
      using Tensors = std::pair<std::vector<Tensor>, std::vector<Tensor>>;
      const auto drop = [](void* tensors) { delete static_cast<Tensors*>(tensors); };
      Api().keep(&result_, new Tensors(inputs_, outputs_), drop);
    }
    if (result_.error != nullptr) throw std::runtime_error(result_.error);
    return result_;
  }

  void FetchInto(const Tensor& tensor) {
    if (result_.bytes == 0 || Api().fetch(&result_, tensor.data_ptr())) return;
    throw std::runtime_error(result_.error);
  }

  std::vector<Tensor> TakeOutputs() { return std::move(outputs_); }

 private:
  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  std::vector<HoraTensor> input_views_;
  std::vector<HoraTensor> output_views_;
  HoraCall call_{};
  HoraResult result_{};
};

}  // namespace

void Connect(const HoraEngineApi* api) { connected.store(api, std::memory_order_release); }

Place PlaceIn(std::int64_t process_set) {
  Place place;
  if (!Api().place(static_cast<std::int32_t>(process_set), &place.rank, &place.size)) {
    throw std::runtime_error(
        fmt::format("this rank is in no process set {} (is hora initialised?)", process_set));
  }
  return place;
}

std::vector<Tensor> RunInto(const Terms& terms, std::vector<Tensor> inputs,
                            std::vector<Tensor> outputs) {
  Call call(terms, std::move(inputs), std::move(outputs));
  call.Run();
  return call.TakeOutputs();
}

Gathered RunGathering(const Terms& terms, const Tensor& input,
                      std::span<const std::int64_t> splits) {
  Call call(terms, {input}, {});
  const HoraResult& result = call.Run(splits);
  Gathered gathered;
  gathered.rows.assign(result.rows, result.rows + result.row_count);
  std::int64_t rows = 0;
  for (const std::int64_t each : gathered.rows) rows += each;
  gathered.tensor = EmptyRows(input, rows);
  call.FetchInto(gathered.tensor);
  return gathered;
}

Tensor EmptyRows(const Tensor& like, std::int64_t rows) {
  std::vector<std::int64_t> dims(like.sizes().begin(), like.sizes().end());
  dims.at(0) = rows;
  return torch::stable::new_empty(like, dims);
}

Tensor FilledUp(const Tensor& dense, std::int64_t rows) {
  Tensor filled = EmptyRows(dense, rows);
  const std::int64_t used = dense.size(0);
  Tensor begin = torch::stable::narrow(filled, 0, 0, used);
  torch::stable::copy_(begin, dense);
  Tensor end = torch::stable::narrow(filled, 0, used, rows - used);
  torch::stable::zero_(end);
  return filled;
}

Tensor EmptyDense(const Tensor& like) { return torch::stable::new_empty(like, like.sizes()); }

}  // namespace hora::torch_ops

#include <span>
#include <string_view>
#include <utility>

#include "hora/base/format.h"
#include "hora/wire/codec.h"
#include "hora/wire/control_generated.h"

namespace hora {
namespace {

using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;
template <class T>
using Items = Offset<flatbuffers::Vector<T>>;

constexpr std::size_t kInitialBytes = 1024;
constexpr std::size_t kKeptBytes = 1u << 20;  // a builder that grew beyond it is given back

Offset<wire::TensorSpec> Write(FlatBufferBuilder& to, const TensorSpec& tensor);
Offset<wire::RequestVariant> Write(FlatBufferBuilder& to, const RequestVariant& variant);
Offset<wire::SubtreeRequest> Write(FlatBufferBuilder& to, const SubtreeRequest& request);
Offset<wire::Response> Write(FlatBufferBuilder& to, const Response& response);

// A set without members is an absent field: no byte travels for it.
Items<std::uint64_t> Words(FlatBufferBuilder& to, const RankSet& set) {
  return set.empty() ? 0 : to.CreateVector(set.words());
}

Items<std::int64_t> Dims(FlatBufferBuilder& to, std::span<const std::int64_t> dims) {
  return dims.empty() ? 0 : to.CreateVector(dims.data(), dims.size());
}

wire::OpScalars Scalars(const OpParams& params) {
  return wire::OpScalars(
      static_cast<std::uint8_t>(params.kind), static_cast<std::uint8_t>(params.dtype),
      static_cast<std::uint8_t>(params.reduce_op), static_cast<std::uint8_t>(params.device.type),
      params.device.index, params.root_rank, params.priority, params.prescale, params.postscale);
}

Offset<wire::Status> Write(FlatBufferBuilder& to, const Status& status) {
  const std::string_view text = std::string_view(status.message()).substr(0, kMaxMessageBytes);
  const auto message = to.CreateString(text.data(), text.size());
  return wire::CreateStatus(to, static_cast<std::uint8_t>(status.code()), message);
}

// Stops early once the frame is too large: Encode refuses it, and the builder cannot grow further.
template <class T>
auto WriteAll(FlatBufferBuilder& to, const std::vector<T>& items) {
  std::vector<decltype(Write(to, items.front()))> offsets;
  offsets.reserve(items.size());
  for (const T& item : items) {
    if (to.GetSize() > kMaxFrameBytes) break;
    offsets.push_back(Write(to, item));
  }
  return to.CreateVector(offsets);
}

Offset<wire::TensorSpec> Write(FlatBufferBuilder& to, const TensorSpec& tensor) {
  const auto shape = Dims(to, tensor.shape.dims());
  return wire::CreateTensorSpec(to, static_cast<std::uint8_t>(tensor.dtype), shape);
}

Items<Offset<wire::TensorSpec>> Rest(FlatBufferBuilder& to, const OpParams& params) {
  return params.rest.empty() ? 0 : WriteAll(to, params.rest);
}

Offset<wire::RequestVariant> Write(FlatBufferBuilder& to, const RequestVariant& variant) {
  const wire::OpScalars scalars = Scalars(variant.params);
  const auto shape = Dims(to, variant.params.shape.dims());
  const auto ranks = Words(to, variant.ranks);
  Items<const wire::RankRows*> first_dims;
  if (!variant.first_dims.empty()) {
    wire::RankRows* rows = nullptr;
    first_dims = to.CreateUninitializedVectorOfStructs(variant.first_dims.size(), &rows);
    for (const RankRows& own : variant.first_dims) *rows++ = wire::RankRows(own.rank, own.rows);
  }
  const auto rest = Rest(to, variant.params);
  return wire::CreateRequestVariant(to, &scalars, shape, ranks, first_dims, rest);
}

Offset<wire::SubtreeRequest> Write(FlatBufferBuilder& to, const SubtreeRequest& request) {
  const auto name = to.CreateString(request.name);
  const auto variants = WriteAll(to, request.variants);
  return wire::CreateSubtreeRequest(to, name, variants);
}

Offset<wire::Response> Write(FlatBufferBuilder& to, const Response& response) {
  const wire::OpScalars scalars = Scalars(response.params);
  const auto name = to.CreateString(response.name);
  const auto shape = Dims(to, response.params.shape.dims());
  const auto first_dims = Dims(to, response.first_dims);
  Offset<wire::Status> error;
  if (!response.error.ok()) error = Write(to, response.error);
  const auto rest = Rest(to, response.params);
  const auto absent = Words(to, response.absent);
  return wire::CreateResponse(to, name, &scalars, shape, first_dims, error, rest, absent);
}

struct BodyWriter {
  FlatBufferBuilder& to;

  std::pair<wire::Body, Offset<void>> operator()(const Readiness& readiness) const {
    const auto cached = Words(to, readiness.cached);
    Items<Offset<wire::SubtreeRequest>> requests;
    if (!readiness.requests.empty()) requests = WriteAll(to, readiness.requests);
    const auto body = wire::CreateReadiness(to, readiness.agreements_seen, cached, requests);
    return {wire::Body::Readiness, body.Union()};
  }

  std::pair<wire::Body, Offset<void>> operator()(const Agreement& agreement) const {
    const auto cached = Words(to, agreement.cached);
    Items<Offset<wire::Response>> responses;
    if (!agreement.responses.empty()) responses = WriteAll(to, agreement.responses);
    wire::Tuning tuning;
    if (agreement.tuning) {
      tuning =
          wire::Tuning(agreement.tuning->fusion_threshold_bytes, agreement.tuning->chunk_bytes,
                       agreement.tuning->small_allreduce_bytes, agreement.tuning->urgent_bytes);
    }
    const auto body = wire::CreateAgreement(to, agreement.sequence, cached, responses,
                                            agreement.tuning ? &tuning : nullptr);
    return {wire::Body::Agreement, body.Union()};
  }

  std::pair<wire::Body, Offset<void>> operator()(const StallReport& report) const {
    const auto name = to.CreateString(report.name);
    const auto ranks = Words(to, report.ranks);
    const auto body = wire::CreateStallReport(to, name, static_cast<std::uint8_t>(report.kind),
                                              ranks, report.waited_ms, report.probe);
    return {wire::Body::StallReport, body.Union()};
  }

  std::pair<wire::Body, Offset<void>> operator()(const StallProbe& probe) const {
    const auto name = to.CreateString(probe.name);
    return {wire::Body::StallProbe, wire::CreateStallProbe(to, name, probe.probe).Union()};
  }

  std::pair<wire::Body, Offset<void>> operator()(const StallSummary& summary) const {
    const auto name = to.CreateString(summary.name);
    const auto submitted = Words(to, summary.submitted);
    const auto missing = Words(to, summary.missing);
    const auto body = wire::CreateStallSummary(to, name, static_cast<std::uint8_t>(summary.kind),
                                               submitted, missing, summary.waited_ms);
    return {wire::Body::StallSummary, body.Union()};
  }

  std::pair<wire::Body, Offset<void>> operator()(const Leave& leave) const {
    return {wire::Body::Leave, wire::CreateLeave(to, leave.rank).Union()};
  }

  std::pair<wire::Body, Offset<void>> operator()(const Joined& joined) const {
    return {wire::Body::Joined, wire::CreateJoined(to, joined.rank).Union()};
  }

  std::pair<wire::Body, Offset<void>> operator()(const Abort& abort) const {
    const auto status = Write(to, abort.status);
    return {wire::Body::Abort, wire::CreateAbort(to, abort.origin, status).Union()};
  }
};

}  // namespace

Status Encode(const ControlMessage& message, std::vector<std::byte>& frame) {
  static thread_local FlatBufferBuilder builder(kInitialBytes);
  builder.Clear();
  const auto [type, body] = std::visit(BodyWriter{builder}, message);
  wire::FinishFrameBuffer(builder, wire::CreateFrame(builder, type, body));
  const std::size_t size = builder.GetSize();
  if (size <= kMaxFrameBytes) {
    const auto* bytes = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
    frame.assign(bytes, bytes + size);
  }
  if (size > kKeptBytes) builder.Reset();
  if (size > kMaxFrameBytes) {
    return Error(StatusCode::kResource,
                 "a control message of {} bytes or more exceeds the limit of {}", size,
                 kMaxFrameBytes);
  }
  return Status::Ok();
}

}  // namespace hora

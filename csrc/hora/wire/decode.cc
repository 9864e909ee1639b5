#include <cmath>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "hora/base/format.h"
#include "hora/wire/codec.h"
#include "hora/wire/control_generated.h"

namespace hora {
namespace {

template <class T>
using Vector = flatbuffers::Vector<T>;

constexpr std::uint8_t kLastStatusCode = static_cast<std::uint8_t>(StatusCode::kInternal);

// Copies verified tables into values and checks what the verifier cannot: ranges and lengths. The
// verifier lets several fields point at the same bytes; the budget, as large as the frame, stops a
// small frame from unfolding into a large message. Remembers the first error; what is read after it
// is empty and of no interest.
class Reader {
 public:
  explicit Reader(std::size_t frame_bytes) : budget_(frame_bytes) {}

  const Status& status() const { return status_; }

  Readiness Read(const wire::Readiness& from) {
    Readiness to{.agreements_seen = from.agreements_seen(), .cached = Set(from.cached(), "cached")};
    ReadAll(from.requests(), to.requests);
    return to;
  }

  Joined Read(const wire::Joined& from) { return {Rank(from.rank(), "rank")}; }

  Agreement Read(const wire::Agreement& from) {
    Agreement to{.sequence = from.sequence(), .cached = Set(from.cached(), "cached")};
    ReadAll(from.responses(), to.responses);
    if (const wire::Tuning* tuning = from.tuning(); tuning != nullptr) {
      to.tuning = {tuning->fusion_threshold_bytes(), tuning->chunk_bytes(),
                   tuning->small_allreduce_bytes(), tuning->urgent_bytes()};
    }
    return to;
  }

  StallReport Read(const wire::StallReport& from) {
    return {Name(from.name()), Kind(from.kind()), Set(from.ranks(), "ranks"), from.waited_ms(),
            from.probe()};
  }

  StallProbe Read(const wire::StallProbe& from) { return {Name(from.name()), from.probe()}; }

  StallSummary Read(const wire::StallSummary& from) {
    return {Name(from.name()), Kind(from.kind()), Set(from.submitted(), "submitted"),
            Set(from.missing(), "missing"), from.waited_ms()};
  }

  Leave Read(const wire::Leave& from) { return {Rank(from.rank(), "rank")}; }

  Abort Read(const wire::Abort& from) {
    return {Rank(from.origin(), "origin"), Read(*from.status())};
  }

 private:
  SubtreeRequest Read(const wire::SubtreeRequest& from) {
    SubtreeRequest to{.name = Name(from.name())};
    if (from.variants()->size() == 0) Fail("variants", "is empty");
    ReadAll(from.variants(), to.variants);
    return to;
  }

  RequestVariant Read(const wire::RequestVariant& from) {
    RequestVariant to{.params = Params(*from.scalars(), from.shape(), from.rest()),
                      .ranks = Set(from.ranks(), "ranks")};
    if (!Spend(from.first_dims(), "first_dims", kMaxRows)) return to;
    to.first_dims.reserve(from.first_dims()->size());
    for (const wire::RankRows* own : *from.first_dims()) {
      to.first_dims.push_back({Rank(own->rank(), "first_dims"), Extent(own->rows(), "first_dims")});
    }
    return to;
  }

  Response Read(const wire::Response& from) {
    Response to{.name = Name(from.name()),
                .params = Params(*from.scalars(), from.shape(), from.rest())};
    to.first_dims = Extents(from.first_dims(), "first_dims", kMaxRows);
    to.absent = Set(from.absent(), "absent");
    if (from.error() != nullptr) to.error = Read(*from.error());
    return to;
  }

  Status Read(const wire::Status& from) {
    if (from.code() == 0 || from.code() > kLastStatusCode) {
      Fail("status code", fmt::format("is {}", from.code()));
      return {};
    }
    return {static_cast<StatusCode>(from.code()),
            Text(from.message(), "message", kMaxMessageBytes)};
  }

  TensorSpec Read(const wire::TensorSpec& from) {
    return {Type(from.dtype()), Shape(Extents(from.shape(), "shape", kMaxDimensions))};
  }

  OpParams Params(const wire::OpScalars& from, const Vector<std::int64_t>* shape,
                  const Vector<flatbuffers::Offset<wire::TensorSpec>>* rest) {
    if (from.reduce_op() > static_cast<std::uint8_t>(ReduceOp::kProduct)) {
      Fail("reduce_op", fmt::format("is {}", from.reduce_op()));
    }
    if (from.device_type() > static_cast<std::uint8_t>(DeviceType::kCuda)) {
      Fail("device_type", fmt::format("is {}", from.device_type()));
    }
    if (!std::isfinite(from.prescale()) || !std::isfinite(from.postscale())) {
      Fail("prescale or postscale", "is not finite");
    }
    if (!status_.ok()) return {};
    OpParams to{.kind = Kind(from.kind()),
                .dtype = Type(from.dtype()),
                .reduce_op = static_cast<ReduceOp>(from.reduce_op()),
                .root_rank = from.root_rank(),
                .priority = from.priority(),
                .prescale = from.prescale(),
                .postscale = from.postscale(),
                .device = {static_cast<DeviceType>(from.device_type()), from.device_index()},
                .shape = Shape(Extents(shape, "shape", kMaxDimensions))};
    ReadAll(rest, to.rest, kMaxGroupTensors - 1);
    return to;
  }

  template <class From, class To>
  void ReadAll(const Vector<flatbuffers::Offset<From>>* from, std::vector<To>& to,
               std::size_t max_size = kMaxFrameBytes) {
    if (!Spend(from, "list", max_size)) return;
    to.reserve(from->size());
    for (const From* item : *from) {
      if (!status_.ok()) return;
      to.push_back(Read(*item));
    }
  }

  OpKind Kind(std::uint8_t value) {
    if (value >= kOpKindCount) Fail("kind", fmt::format("is {}", value));
    return status_.ok() ? static_cast<OpKind>(value) : OpKind::kAllreduce;
  }

  DType Type(std::uint8_t value) {
    if (value >= kDTypeCount) Fail("dtype", fmt::format("is {}", value));
    return status_.ok() ? static_cast<DType>(value) : DType::kUInt8;
  }

  std::int32_t Rank(std::int32_t value, const char* field) {
    if (value < 0 || static_cast<std::size_t>(value) >= kMaxSetWords * 64) {
      Fail(field, fmt::format("names rank {}", value));
    }
    return value;
  }

  std::int64_t Extent(std::int64_t value, const char* field) {
    if (value < 0) Fail(field, fmt::format("holds the extent {}", value));
    return value;
  }

  std::vector<std::int64_t> Extents(const Vector<std::int64_t>* from, const char* field,
                                    std::size_t max_size) {
    std::vector<std::int64_t> to;
    if (!Spend(from, field, max_size)) return to;
    to.reserve(from->size());
    for (const std::int64_t extent : *from) to.push_back(Extent(extent, field));
    return to;
  }

  RankSet Set(const Vector<std::uint64_t>* from, const char* field) {
    if (!Spend(from, field, kMaxSetWords)) return {};
    return RankSet::FromWords({from->begin(), from->end()});
  }

  std::string Name(const flatbuffers::String* from) { return Text(from, "name", kMaxNameBytes); }

  std::string Text(const flatbuffers::String* from, const char* field, std::size_t max_size) {
    return Spend(from, field, max_size) ? from->str() : std::string();
  }

  // True when there is something to copy and it may be copied. The verifier has checked that it
  // lies inside the frame, but not that its elements are aligned.
  template <class T>
  bool Spend(const Vector<T>* items, const char* field, std::size_t max_size) {
    using Element = std::remove_pointer_t<T>;
    if (items == nullptr || !status_.ok()) return false;
    const std::size_t bytes = std::size_t{items->size()} * sizeof(Element);
    if (items->size() > max_size) {
      Fail(field, fmt::format("has {} items, at most {}", items->size(), max_size));
    } else if (bytes > budget_) {
      Fail(field, "shares its bytes with other fields");
    } else if (reinterpret_cast<std::uintptr_t>(items->Data()) % alignof(Element) != 0) {
      Fail(field, "is not aligned");
    } else {
      budget_ -= bytes;
    }
    return status_.ok();
  }

  void Fail(std::string_view field, std::string_view problem) {
    if (status_.ok())
      status_ = Error(StatusCode::kInternal, "malformed frame: {} {}", field, problem);
  }

  std::size_t budget_;
  Status status_;
};

Result<ControlMessage> ReadBody(Reader& reader, const wire::Frame& frame) {
  switch (frame.body_type()) {
    case wire::Body::Readiness:
      return reader.Read(*frame.body_as_Readiness());
    case wire::Body::Agreement:
      return reader.Read(*frame.body_as_Agreement());
    case wire::Body::StallReport:
      return reader.Read(*frame.body_as_StallReport());
    case wire::Body::StallProbe:
      return reader.Read(*frame.body_as_StallProbe());
    case wire::Body::StallSummary:
      return reader.Read(*frame.body_as_StallSummary());
    case wire::Body::Leave:
      return reader.Read(*frame.body_as_Leave());
    case wire::Body::Abort:
      return reader.Read(*frame.body_as_Abort());
    case wire::Body::Joined:
      return reader.Read(*frame.body_as_Joined());
    case wire::Body::NONE:
      break;
  }
  return Fail(Error(StatusCode::kInternal, "malformed frame: unknown message type {}",
                    static_cast<int>(frame.body_type())));
}

}  // namespace

Result<ControlMessage> Decode(std::span<const std::byte> frame) {
  if (frame.size() > kMaxFrameBytes) {
    return Fail(Error(StatusCode::kInternal, "malformed frame: {} bytes, at most {}", frame.size(),
                      kMaxFrameBytes));
  }
  // FlatBuffers reads in place, which needs the alignment that the encoder assumed.
  if (reinterpret_cast<std::uintptr_t>(frame.data()) % alignof(std::uint64_t) != 0) {
    const std::vector<std::byte> aligned(frame.begin(), frame.end());
    return Decode(aligned);
  }
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(frame.data());
  flatbuffers::Verifier::Options options;
  options.max_depth = 8;
  // A table takes at least four bytes, and as many to be referred to; more tables share bytes.
  options.max_tables = static_cast<flatbuffers::uoffset_t>(frame.size() / 8 + 1);
  flatbuffers::Verifier verifier(bytes, frame.size(), options);
  if (!wire::VerifyFrameBuffer(verifier)) {
    return Fail(Error(StatusCode::kInternal, "malformed frame: {} bytes are not a control message",
                      frame.size()));
  }
  Reader reader(frame.size());
  Result<ControlMessage> message = ReadBody(reader, *wire::GetFrame(bytes));
  if (!reader.status().ok()) return Fail(reader.status());
  return message;
}

}  // namespace hora

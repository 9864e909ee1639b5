#include "hora/wire/store_message.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "hora/base/format.h"
#include "hora/wire/limits.h"
#include "hora/wire/store_generated.h"

namespace hora {
namespace {

using flatbuffers::FlatBufferBuilder;

constexpr std::size_t kInitialBytes = 1024;
constexpr std::uint8_t kLastStatusCode = static_cast<std::uint8_t>(StatusCode::kInternal);
constexpr std::int32_t kMostRanks = static_cast<std::int32_t>(kMaxSetWords * 64);

// Each call writes one body.
struct BodyWriter {
  FlatBufferBuilder& to;
  using Written = std::pair<wire::store::Body, flatbuffers::Offset<void>>;

  Written operator()(const MeetRequest& from) const {
    const auto tells = to.CreateString(from.tells);
    return {wire::store::Body::MeetRequest,
            wire::store::CreateMeetRequest(to, from.rank, from.size, from.client, from.patience_ms,
                                           tells)
                .Union()};
  }
  Written operator()(const SetRequest& from) const {
    const auto key = to.CreateString(from.key);
    const auto value = to.CreateString(from.value);
    return {wire::store::Body::SetRequest, wire::store::CreateSetRequest(to, key, value).Union()};
  }
  Written operator()(const GetRequest& from) const {
    const auto key = to.CreateString(from.key);
    return {wire::store::Body::GetRequest,
            wire::store::CreateGetRequest(to, key, from.patience_ms).Union()};
  }
  Written operator()(const MeetAnswer& from) const {
    std::vector<flatbuffers::Offset<flatbuffers::String>> told;
    told.reserve(from.told.size());
    for (const std::string& words : from.told) {
      // It is refused below, and the builder cannot grow further.
      if (to.GetSize() > kMaxStoreAnswerBytes) break;
      told.push_back(to.CreateString(words));
    }
    const auto all = to.CreateVector(told);
    return {wire::store::Body::MeetAnswer,
            wire::store::CreateMeetAnswer(to, from.generation, all).Union()};
  }
  Written operator()(const SetAnswer&) const {
    return {wire::store::Body::SetAnswer, wire::store::CreateSetAnswer(to).Union()};
  }
  Written operator()(const GetAnswer& from) const {
    const auto value = to.CreateString(from.value);
    return {wire::store::Body::GetAnswer, wire::store::CreateGetAnswer(to, value).Union()};
  }
  Written operator()(const Refusal& from) const {
    const std::string_view text =
        std::string_view(from.status.message()).substr(0, kMaxMessageBytes);
    const auto message = to.CreateString(text.data(), text.size());
    return {wire::store::Body::Refusal,
            wire::store::CreateRefusal(to, static_cast<std::uint8_t>(from.status.code()), message)
                .Union()};
  }
};

// Copies verified tables and checks what the verifier cannot. Texts may share bytes, so that a
// small frame would unfold into a large message; the budget, as large as the frame, prevents it.
class Reader {
 public:
  explicit Reader(std::size_t frame_bytes) : budget_(frame_bytes) {}

  const Status& status() const { return status_; }

  StoreMessage Read(const wire::store::MeetRequest& from) {
    if (from.size() < 1 || from.size() > kMostRanks)
      Fail("size", fmt::format("is {}", from.size()));
    if (from.rank() < 0 || from.rank() >= kMostRanks) {
      Fail("rank", fmt::format("is {}", from.rank()));
    }
    return MeetRequest{from.rank(), from.size(), from.client(), from.patience_ms(),
                       Text(*from.tells())};
  }
  StoreMessage Read(const wire::store::SetRequest& from) {
    return SetRequest{Text(*from.key()), Text(*from.value())};
  }
  StoreMessage Read(const wire::store::GetRequest& from) {
    return GetRequest{Text(*from.key()), from.patience_ms()};
  }
  StoreMessage Read(const wire::store::MeetAnswer& from) {
    MeetAnswer to{.generation = from.generation(), .told = {}};
    to.told.reserve(from.told()->size());
    for (const flatbuffers::String* words : *from.told()) {
      if (!status_.ok()) break;
      to.told.push_back(Text(*words));
    }
    return to;
  }
  StoreMessage Read(const wire::store::GetAnswer& from) { return GetAnswer{Text(*from.value())}; }
  StoreMessage Read(const wire::store::Refusal& from) {
    if (from.code() == 0 || from.code() > kLastStatusCode) {
      Fail("code", fmt::format("is {}", from.code()));
      return Refusal{};
    }
    return Refusal{Status(static_cast<StatusCode>(from.code()), Text(*from.message()))};
  }

 private:
  std::string Text(const flatbuffers::String& from) {
    if (from.size() > budget_) {
      Fail("text", "shares its bytes with others");
      return {};
    }
    budget_ -= from.size();
    return from.str();
  }

  void Fail(std::string_view field, std::string_view problem) {
    if (!status_.ok()) return;
    status_ = Error(StatusCode::kInternal, "malformed store message: {} {}", field, problem);
  }

  std::size_t budget_;
  Status status_;
};

Result<StoreMessage> ReadBody(Reader& reader, const wire::store::Message& message) {
  using wire::store::Body;
  switch (message.body_type()) {
    case Body::MeetRequest:
      return reader.Read(*message.body_as_MeetRequest());
    case Body::SetRequest:
      return reader.Read(*message.body_as_SetRequest());
    case Body::GetRequest:
      return reader.Read(*message.body_as_GetRequest());
    case Body::MeetAnswer:
      return reader.Read(*message.body_as_MeetAnswer());
    case Body::SetAnswer:
      return StoreMessage(SetAnswer{});
    case Body::GetAnswer:
      return reader.Read(*message.body_as_GetAnswer());
    case Body::Refusal:
      return reader.Read(*message.body_as_Refusal());
    case Body::NONE:
      break;
  }
  return Fail(Error(StatusCode::kInternal, "malformed store message: unknown type {}",
                    static_cast<int>(message.body_type())));
}

std::size_t BoundOf(const StoreMessage& message) {
  const bool is_request = std::holds_alternative<MeetRequest>(message) ||
                          std::holds_alternative<SetRequest>(message) ||
                          std::holds_alternative<GetRequest>(message);
  return is_request ? kMaxStoreRequestBytes : kMaxStoreAnswerBytes;
}

}  // namespace

Status EncodeStoreMessage(const StoreMessage& message, std::vector<std::byte>& frame) {
  FlatBufferBuilder builder(kInitialBytes);
  const auto [type, body] = std::visit(BodyWriter{builder}, message);
  wire::store::FinishMessageBuffer(builder, wire::store::CreateMessage(builder, type, body));
  if (builder.GetSize() > BoundOf(message)) {
    return Error(StatusCode::kResource, "a store message of {} bytes exceeds the limit of {}",
                 builder.GetSize(), BoundOf(message));
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  frame.assign(bytes, bytes + builder.GetSize());
  return Status::Ok();
}

Result<StoreMessage> DecodeStoreMessage(std::span<const std::byte> frame) {
  if (frame.size() > kMaxStoreAnswerBytes) {
    return Fail(Error(StatusCode::kInternal, "malformed store message: {} bytes, at most {}",
                      frame.size(), kMaxStoreAnswerBytes));
  }
  // FlatBuffers reads in place, which needs the alignment that the encoder assumed.
  if (reinterpret_cast<std::uintptr_t>(frame.data()) % alignof(std::uint64_t) != 0) {
    const std::vector<std::byte> aligned(frame.begin(), frame.end());
    return DecodeStoreMessage(aligned);
  }
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(frame.data());
  flatbuffers::Verifier::Options options;
  options.max_depth = 4;
  options.max_tables = 4;
  flatbuffers::Verifier verifier(bytes, frame.size(), options);
  if (!wire::store::VerifyMessageBuffer(verifier)) {
    return Fail(Error(StatusCode::kInternal,
                      "malformed store message: {} bytes are not one of version HST1",
                      frame.size()));
  }
  Reader reader(frame.size());
  Result<StoreMessage> message = ReadBody(reader, *wire::store::GetMessage(bytes));
  if (!reader.status().ok()) return Fail(reader.status());
  return message;
}

}  // namespace hora

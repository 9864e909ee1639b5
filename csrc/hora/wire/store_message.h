// What a rank and the store tell each other (FlatBuffers, schema in store.fbs, verified before
// reading).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "hora/base/result.h"
#include "hora/base/status.h"

namespace hora {

// A request is small; an answer may hold what every rank of a large job has told.
inline constexpr std::size_t kMaxStoreRequestBytes = 80u << 10;
inline constexpr std::size_t kMaxStoreAnswerBytes = 64u << 20;

// From a rank to the store, one at a time.
struct MeetRequest {
  std::int32_t rank = 0;
  std::int32_t size = 1;
  std::uint64_t client = 0;  // tells a rank that tries again from another one of the same number
  std::uint32_t patience_ms = 0;
  std::string tells;

  friend bool operator==(const MeetRequest&, const MeetRequest&) = default;
};

struct SetRequest {
  std::string key;
  std::string value;

  friend bool operator==(const SetRequest&, const SetRequest&) = default;
};

struct GetRequest {
  std::string key;
  std::uint32_t patience_ms = 0;

  friend bool operator==(const GetRequest&, const GetRequest&) = default;
};

// From the store to a rank: the answer of the same name, or a refusal.
struct MeetAnswer {
  std::uint64_t generation = 0;
  std::vector<std::string> told;  // by rank

  friend bool operator==(const MeetAnswer&, const MeetAnswer&) = default;
};

struct SetAnswer {
  friend bool operator==(const SetAnswer&, const SetAnswer&) = default;
};

struct GetAnswer {
  std::string value;

  friend bool operator==(const GetAnswer&, const GetAnswer&) = default;
};

struct Refusal {
  Status status;  // never OK; a long message is cut

  friend bool operator==(const Refusal&, const Refusal&) = default;
};

using StoreMessage =
    std::variant<MeetRequest, SetRequest, GetRequest, MeetAnswer, SetAnswer, GetAnswer, Refusal>;

// Replaces the contents of `frame`. kResource: larger than the bound of its kind. Any thread.
Status EncodeStoreMessage(const StoreMessage& message, std::vector<std::byte>& frame);

// Bounded: allocates no more than a small multiple of frame.size(); any input gives a message or
// kInternal naming the field that is wrong. Any thread.
Result<StoreMessage> DecodeStoreMessage(std::span<const std::byte> frame);

}  // namespace hora

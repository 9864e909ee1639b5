#include "hora/wire/store_message.h"

#include <gtest/gtest.h>

#include <map>

#include "hora/wire/limits.h"
#include "hora/wire/store_generated.h"

namespace hora {
namespace {

using Bytes = std::vector<std::byte>;

Bytes Encoded(const StoreMessage& message) {
  Bytes frame;
  EXPECT_TRUE(EncodeStoreMessage(message, frame).ok());
  return frame;
}

std::string Hex(const Bytes& frame) {
  std::string text;
  for (const std::byte byte : frame) {
    text += "0123456789abcdef"[std::to_integer<int>(byte) >> 4];
    text += "0123456789abcdef"[std::to_integer<int>(byte) & 15];
  }
  return text;
}

std::string DecodeError(const StoreMessage& message) {
  const Result<StoreMessage> decoded = DecodeStoreMessage(Encoded(message));
  if (decoded.has_value()) return "";
  EXPECT_EQ(decoded.error().code(), StatusCode::kInternal);
  return decoded.error().message();
}

const std::map<std::string, StoreMessage>& Samples() {
  static const std::map<std::string, StoreMessage> samples = {
      {"meet", MeetRequest{3, 4, 0x0102030405060708, 1500, std::string("a\0b", 3)}},
      {"set", SetRequest{"key", "value"}},
      {"get", GetRequest{"key", 250}},
      {"meet_answer", MeetAnswer{77, {"zero", "", std::string("\xff\0", 2)}}},
      {"set_answer", SetAnswer{}},
      {"get_answer", GetAnswer{"value"}},
      {"refusal", Refusal{Status(StatusCode::kTimeout, "missing 2")}},
  };
  return samples;
}

// A change here means that ranks of different builds no longer understand each other: change the
// file identifier in store.fbs as well.
const std::map<std::string, std::string>& Golden() {
  static const std::map<std::string, std::string> frames = {
      {"get",
       "100000004853543108000c000700080008000000000000030c00000008000c00"
       "040008000800000008000000fa000000030000006b657900"},
      {"get_answer",
       "100000004853543108000e000700080008000000000000060c00000000000600"
       "0800040006000000040000000500000076616c7565000000"},
      {"meet",
       "100000004853543108000e000700080008000000000000011400000000000e00"
       "1c000400080014000c0010000e0000000300000004000000dc0500000c000000"
       "08070605040302010300000061006200"},
      {"meet_answer",
       "14000000485354310000000008000c000700080008000000000000040c000000"
       "080014000800040008000000100000004d000000000000000000000003000000"
       "1c000000100000000400000002000000ff000000000000000000000004000000"
       "7a65726f00000000"},
      {"refusal",
       "0800000048535431f4ffffff000000070c00000008000c000700080008000000"
       "0000000704000000090000006d697373696e672032000000"},
      {"set",
       "100000004853543108000c000700080008000000000000020c00000008000c00"
       "040008000800000014000000040000000500000076616c756500000003000000"
       "6b657900"},
      {"set_answer",
       "100000004853543108000c000700080008000000000000050800000004000400"
       "04000000"},
  };
  return frames;
}

TEST(StoreMessage, EveryMessageSurvives) {
  for (const auto& [name, message] : Samples()) {
    const Result<StoreMessage> decoded = DecodeStoreMessage(Encoded(message));
    ASSERT_TRUE(decoded.has_value()) << name << ": " << decoded.error().ToString();
    EXPECT_EQ(*decoded, message) << name;
  }
  EXPECT_EQ(Samples().size(), std::variant_size_v<StoreMessage>);
}

TEST(StoreMessage, BytesStayWhatTheyAre) {
  for (const auto& [name, message] : Samples()) {
    EXPECT_EQ(Hex(Encoded(message)), Golden().at(name)) << name;
  }
}

TEST(StoreMessage, ReadsFramesAtAnyAddress) {
  const Bytes frame = Encoded(Samples().at("meet_answer"));
  for (std::size_t shift = 0; shift < 8; ++shift) {
    Bytes shifted(shift);
    shifted.insert(shifted.end(), frame.begin(), frame.end());
    const auto decoded = DecodeStoreMessage(std::span(shifted).subspan(shift));
    ASSERT_TRUE(decoded.has_value()) << shift;
    EXPECT_EQ(*decoded, Samples().at("meet_answer"));
  }
}

TEST(StoreMessage, NamesTheFieldThatIsOutOfRange) {
  EXPECT_EQ(DecodeError(MeetRequest{.rank = -1, .size = 2}), "malformed store message: rank is -1");
  EXPECT_EQ(DecodeError(MeetRequest{.rank = 1 << 20, .size = 2}),
            "malformed store message: rank is 1048576");
  EXPECT_EQ(DecodeError(MeetRequest{.rank = 0, .size = 0}), "malformed store message: size is 0");
  EXPECT_EQ(DecodeError(MeetRequest{.rank = 0, .size = (1 << 20) + 1}),
            "malformed store message: size is 1048577");
  EXPECT_EQ(DecodeError(Refusal{}), "malformed store message: code is 0");
  EXPECT_EQ(DecodeError(Refusal{Status(static_cast<StatusCode>(10), "")}),
            "malformed store message: code is 10");
}

TEST(StoreMessage, BoundsRequestsAndAnswers) {
  Bytes frame;
  EXPECT_TRUE(EncodeStoreMessage(SetRequest{"k", std::string(64u << 10, 'v')}, frame).ok());
  EXPECT_EQ(EncodeStoreMessage(SetRequest{"k", std::string(80u << 10, 'v')}, frame).code(),
            StatusCode::kResource);
  const std::string words(64u << 10, 't');
  EXPECT_TRUE(EncodeStoreMessage(MeetAnswer{1, std::vector(512, words)}, frame).ok());
  EXPECT_EQ(EncodeStoreMessage(MeetAnswer{1, std::vector(4096, words)}, frame).code(),
            StatusCode::kResource);
  EXPECT_FALSE(DecodeStoreMessage(Bytes(kMaxStoreAnswerBytes + 1)).has_value());
  const auto cut =
      DecodeStoreMessage(Encoded(Refusal{Status(StatusCode::kInternal, std::string(100000, 'e'))}));
  ASSERT_TRUE(cut.has_value());
  EXPECT_EQ(std::get<Refusal>(*cut).status.message().size(), kMaxMessageBytes);
}

// Many references to one large text: a small frame that would unfold into gigabytes.
TEST(StoreMessage, RefusesTextsThatShareBytes) {
  flatbuffers::FlatBufferBuilder to;
  const std::vector shared(100000, to.CreateString(std::string(65536, 'x')));
  const auto answer = wire::store::CreateMeetAnswer(to, 1, to.CreateVector(shared));
  wire::store::FinishMessageBuffer(
      to, wire::store::CreateMessage(to, wire::store::Body::MeetAnswer, answer.Union()));
  const auto decoded =
      DecodeStoreMessage(std::as_bytes(std::span(to.GetBufferPointer(), to.GetSize())));
  ASSERT_FALSE(decoded.has_value());
  EXPECT_EQ(decoded.error().message(),
            "malformed store message: text shares its bytes with others");
}

// Whatever arrives: a message that can be sent on, or an error; the sanitizers watch.
void ExpectBounded(const Bytes& frame) {
  const Result<StoreMessage> decoded = DecodeStoreMessage(frame);
  if (!decoded.has_value()) {
    EXPECT_EQ(decoded.error().code(), StatusCode::kInternal);
    EXPECT_LT(decoded.error().message().size(), 200u);
    return;
  }
  const Result<StoreMessage> again = DecodeStoreMessage(Encoded(*decoded));
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(*again, *decoded);
}

TEST(StoreMessage, TruncatedFramesAreRefused) {
  for (const auto& [name, message] : Samples()) {
    const Bytes frame = Encoded(message);
    for (std::size_t size = 0; size < frame.size(); ++size) {
      // A copy of exactly this size, so that reading beyond it is noticed.
      const Bytes part(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(size));
      ExpectBounded(part);
      EXPECT_TRUE(size >= 8 || !DecodeStoreMessage(part).has_value());
    }
  }
}

TEST(StoreMessage, AnyChangedByteIsAMessageOrAnError) {
  for (const auto& [name, message] : Samples()) {
    Bytes frame = Encoded(message);
    for (std::byte& byte : frame) {
      const std::byte good = byte;
      for (int change = 1; change < 256; ++change) {
        byte = good ^ static_cast<std::byte>(change);
        ExpectBounded(frame);
      }
      byte = good;
    }
  }
}

TEST(StoreMessage, SeveralChangedBytesAreAMessageOrAnError) {
  std::uint32_t state = 12345;
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 8; };
  for (const auto& [name, message] : Samples()) {
    const Bytes good = Encoded(message);
    for (int i = 0; i < 2000; ++i) {
      Bytes frame = good;
      for (std::uint32_t n = next() % 6 + 1; n > 0; --n) {
        frame[next() % frame.size()] = static_cast<std::byte>(next());
      }
      ExpectBounded(frame);
    }
  }
}

}  // namespace
}  // namespace hora

#include "hora/wire/codec.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>

#include "hora/wire/control_generated.h"
#include "wire/golden_frames.h"
#include "wire/sample_messages.h"

namespace hora {
namespace {

std::vector<std::byte> Encoded(const ControlMessage& message) {
  std::vector<std::byte> frame;
  EXPECT_TRUE(Encode(message, frame).ok());
  return frame;
}

std::string Hex(const std::vector<std::byte>& frame) {
  std::string text;
  for (const std::byte byte : frame) {
    text += "0123456789abcdef"[std::to_integer<int>(byte) >> 4];
    text += "0123456789abcdef"[std::to_integer<int>(byte) & 15];
  }
  return text;
}

std::string DecodeError(const ControlMessage& message) {
  const Result<ControlMessage> decoded = Decode(Encoded(message));
  if (decoded.has_value()) return "";
  EXPECT_EQ(decoded.error().code(), StatusCode::kInternal);
  return decoded.error().message();
}

// With params that only a hostile or broken peer can send.
ControlMessage WithParams(const OpParams& params) {
  return Agreement{.sequence = 1, .responses = {{.name = "x", .params = params}}};
}

TEST(Codec, EveryMessageSurvives) {
  for (const auto& [name, message] : SampleMessages()) {
    const Result<ControlMessage> decoded = Decode(Encoded(message));
    ASSERT_TRUE(decoded.has_value()) << name << ": " << decoded.error().ToString();
    EXPECT_EQ(*decoded, message) << name;
  }
}

TEST(Codec, BytesStayWhatTheyAre) {
  for (const auto& [name, message] : SampleMessages()) {
    EXPECT_EQ(Hex(Encoded(message)), GoldenFrames().at(name)) << name;
  }
  EXPECT_EQ(GoldenFrames().size(), SampleMessages().size());
}

TEST(Codec, AFrameDoesNotDependOnWhatWasEncodedBefore) {
  const ControlMessage small = SampleMessages().at("one_bit");
  const std::vector<std::byte> alone = Encoded(small);
  Encoded(
      Agreement{.responses = {{.name = "x", .first_dims = std::vector<std::int64_t>(1 << 18)}}});
  EXPECT_EQ(Encoded(small), alone);
}

TEST(Codec, ABitIsSmall) { EXPECT_LE(Encoded(SampleMessages().at("one_bit")).size(), 72u); }

TEST(Codec, ManyRequestsSurvive) {
  Readiness readiness;
  for (int i = 0; i < 1000; ++i) {
    readiness.requests.push_back(
        {std::to_string(i), {{.params = {.shape = {}}, .ranks = Ranks({i})}}});
  }
  const Result<ControlMessage> decoded = Decode(Encoded(readiness));
  ASSERT_TRUE(decoded.has_value()) << decoded.error().ToString();
  EXPECT_EQ(*decoded, ControlMessage(readiness));
}

TEST(Codec, ReadsFramesAtAnyAddress) {
  const ControlMessage message = SampleMessages().at("readiness");
  const std::vector<std::byte> frame = Encoded(message);
  for (std::size_t shift = 0; shift < 8; ++shift) {
    std::vector<std::byte> shifted(shift);
    shifted.insert(shifted.end(), frame.begin(), frame.end());
    const auto decoded = Decode(std::span(shifted).subspan(shift));
    ASSERT_TRUE(decoded.has_value()) << shift;
    EXPECT_EQ(*decoded, message);
  }
}

TEST(Codec, NamesTheFieldThatIsOutOfRange) {
  OpParams params = SampleParams();
  params.kind = static_cast<OpKind>(kOpKindCount);
  EXPECT_EQ(DecodeError(WithParams(params)), "malformed frame: kind is 7");
  params = SampleParams();
  params.dtype = static_cast<DType>(kDTypeCount);
  EXPECT_EQ(DecodeError(WithParams(params)), "malformed frame: dtype is 21");
  params = SampleParams();
  params.reduce_op = static_cast<ReduceOp>(6);
  EXPECT_EQ(DecodeError(WithParams(params)), "malformed frame: reduce_op is 6");
  params = SampleParams();
  params.device.type = static_cast<DeviceType>(9);
  EXPECT_EQ(DecodeError(WithParams(params)), "malformed frame: device_type is 9");
  params = SampleParams();
  params.prescale = std::numeric_limits<double>::infinity();
  EXPECT_EQ(DecodeError(WithParams(params)),
            "malformed frame: prescale or postscale is not finite");
  params = SampleParams();
  params.shape = {2, -1};
  EXPECT_EQ(DecodeError(WithParams(params)), "malformed frame: shape holds the extent -1");
  params.shape = Shape(std::vector<std::int64_t>(kMaxDimensions + 1, 1));
  EXPECT_EQ(DecodeError(WithParams(params)), "malformed frame: shape has 65 items, at most 64");
}

TEST(Codec, BoundsGroups) {
  OpParams params = SampleGroupParams();
  params.rest[1].dtype = static_cast<DType>(kDTypeCount);
  EXPECT_EQ(DecodeError(WithParams(params)), "malformed frame: dtype is 21");
  params = SampleGroupParams();
  params.rest[0].shape = {-3};
  EXPECT_EQ(DecodeError(WithParams(params)), "malformed frame: shape holds the extent -3");
  params.rest.assign(kMaxGroupTensors - 1, {DType::kInt8, {7}});
  EXPECT_EQ(DecodeError(WithParams(params)), "");
  params.rest.push_back({});
  EXPECT_EQ(DecodeError(WithParams(params)),
            "malformed frame: list has 65536 items, at most 65535");
}

TEST(Codec, EveryOperationAndReductionTravels) {
  for (int kind = 0; kind < kOpKindCount; ++kind) {
    for (int op = 0; op <= static_cast<int>(ReduceOp::kProduct); ++op) {
      const OpParams params{.kind = static_cast<OpKind>(kind),
                            .reduce_op = static_cast<ReduceOp>(op)};
      const auto decoded = Decode(Encoded(WithParams(params)));
      ASSERT_TRUE(decoded.has_value()) << decoded.error().ToString();
      EXPECT_EQ(std::get<Agreement>(*decoded).responses[0].params, params);
    }
  }
}

TEST(Codec, BoundsNamesRanksAndStatus) {
  EXPECT_EQ(DecodeError(StallProbe{.name = std::string(kMaxNameBytes, 'x')}), "");
  EXPECT_EQ(DecodeError(StallProbe{.name = std::string(kMaxNameBytes + 1, 'x')}),
            "malformed frame: name has 4097 items, at most 4096");
  EXPECT_EQ(DecodeError(Leave{.rank = -1}), "malformed frame: rank names rank -1");
  EXPECT_EQ(DecodeError(Leave{.rank = 1 << 20}), "malformed frame: rank names rank 1048576");
  EXPECT_EQ(DecodeError(Joined{.rank = -1}), "malformed frame: rank names rank -1");
  EXPECT_EQ(DecodeError(StallReport{.name = "x", .ranks = RankSet::Of(1 << 20)}),
            "malformed frame: ranks has 16385 items, at most 16384");
  EXPECT_EQ(DecodeError(Abort{.origin = 0, .status = Status::Ok()}),
            "malformed frame: status code is 0");
  EXPECT_EQ(DecodeError(Abort{.origin = 0, .status = Status(static_cast<StatusCode>(10), "")}),
            "malformed frame: status code is 10");
  EXPECT_EQ(DecodeError(Readiness{.requests = {{.name = "x"}}}),
            "malformed frame: variants is empty");
}

TEST(Codec, CutsALongErrorText) {
  const Abort abort{.origin = 0, .status = Status(StatusCode::kInternal, std::string(100000, 'e'))};
  const auto decoded = Decode(Encoded(abort));
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(std::get<Abort>(*decoded).status.message().size(), kMaxMessageBytes);
}

TEST(Codec, RefusesWhatIsTooLarge) {
  std::vector<std::byte> frame;
  Response response{.name = "x"};
  response.first_dims.resize(kMaxFrameBytes / 8);
  EXPECT_EQ(Encode(Agreement{.responses = {response}}, frame).code(), StatusCode::kResource);
  EXPECT_FALSE(Decode(std::vector<std::byte>(kMaxFrameBytes + 1)).has_value());
}

// Many references to one large table: a small frame that would unfold into gigabytes.
TEST(Codec, RefusesFieldsThatShareBytes) {
  flatbuffers::FlatBufferBuilder to;
  const auto name = to.CreateString(std::string(kMaxNameBytes, 'x'));
  const wire::OpScalars scalars(0, 0, 0, 0, 0, 0, 0, 1.0, 1.0);
  const auto response = wire::CreateResponse(to, name, &scalars);
  for (const bool share_tables : {true, false}) {
    std::vector<flatbuffers::Offset<wire::Response>> all;
    for (int i = 0; i < 100000; ++i) {
      all.push_back(share_tables ? response : wire::CreateResponse(to, name, &scalars));
    }
    const auto agreement = wire::CreateAgreement(to, 1, 0, to.CreateVector(all));
    wire::FinishFrameBuffer(to, wire::CreateFrame(to, wire::Body::Agreement, agreement.Union()));
    const auto bytes = std::as_bytes(std::span(to.GetBufferPointer(), to.GetSize()));
    EXPECT_FALSE(Decode(bytes).has_value());
    to.Clear();
    const auto fresh_name = to.CreateString(std::string(kMaxNameBytes, 'x'));
    ASSERT_EQ(fresh_name.o, name.o);
  }
}

// Whatever arrives: a message that can be sent on, or an error; the sanitizers watch.
void ExpectBounded(std::span<const std::byte> frame) {
  const Result<ControlMessage> decoded = Decode(frame);
  if (!decoded.has_value()) {
    EXPECT_EQ(decoded.error().code(), StatusCode::kInternal);
    EXPECT_LT(decoded.error().message().size(), 200u);
    return;
  }
  const Result<ControlMessage> again = Decode(Encoded(*decoded));
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(*again, *decoded);
}

TEST(Codec, TruncatedFramesAreRefused) {
  for (const auto& [name, message] : SampleMessages()) {
    const std::vector<std::byte> frame = Encoded(message);
    for (std::size_t size = 0; size < frame.size(); ++size) {
      // A copy of exactly this size, so that reading beyond it is noticed.
      const std::vector<std::byte> part(frame.begin(),
                                        frame.begin() + static_cast<std::ptrdiff_t>(size));
      ExpectBounded(part);
      EXPECT_TRUE(size >= 8 || !Decode(part).has_value());
    }
  }
}

TEST(Codec, AnyChangedByteIsAMessageOrAnError) {
  for (const auto& [name, message] : SampleMessages()) {
    std::vector<std::byte> frame = Encoded(message);
    for (std::byte& byte : frame) {
      const std::byte good = byte;
      for (const int change : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff, 0x7f}) {
        byte = good ^ static_cast<std::byte>(change);
        ExpectBounded(frame);
      }
      byte = good;
    }
  }
}

TEST(Codec, SeveralChangedBytesAreAMessageOrAnError) {
  std::uint32_t state = 12345;
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 8; };
  for (const auto& [name, message] : SampleMessages()) {
    const std::vector<std::byte> good = Encoded(message);
    for (int i = 0; i < 2000; ++i) {
      std::vector<std::byte> frame = good;
      for (std::uint32_t n = next() % 6 + 1; n > 0; --n) {
        frame[next() % frame.size()] = static_cast<std::byte>(next());
      }
      ExpectBounded(frame);
    }
  }
}

}  // namespace
}  // namespace hora

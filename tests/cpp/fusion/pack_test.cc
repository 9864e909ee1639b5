#include "hora/fusion/pack.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "fusion/sharing.h"
#include "hora/base/check.h"

namespace hora {
namespace {

std::vector<std::byte> Counting(std::size_t count, int first = 0) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = std::byte(first + static_cast<int>(i));
  return bytes;
}

TensorView View(std::vector<std::byte>& memory, Shape shape, DType dtype = DType::kUInt8) {
  return {memory.data(), dtype, {}, std::move(shape)};
}

std::vector<std::byte> Contents(ByteStream& stream) {
  std::vector<std::byte> bytes(stream.size());
  stream.Gather(0, bytes);
  return bytes;
}

Response Gathered(std::vector<std::int64_t> rows, std::int64_t columns, DType dtype) {
  Response response;
  response.params.kind = OpKind::kAllgather;
  response.params.dtype = dtype;
  response.params.shape = {0, columns};
  response.first_dims = std::move(rows);
  return response;
}

TEST(Pack, StreamsFollowTheMembersInOrder) {
  auto in_a = Counting(3), in_b = Counting(0), in_c = Counting(2, 3);
  std::vector<std::byte> out_a(3), out_b(0), out_c(2);
  const std::array<MemberBuffers, 3> buffers{MemberBuffers{View(in_a, {3}), View(out_a, {3})},
                                             MemberBuffers{View(in_b, {0}), View(out_b, {0})},
                                             MemberBuffers{View(in_c, {2}), View(out_c, {2})}};
  Batch batch;
  batch.members = {{0, 0}, {1, 0}, {2, 0}};
  const std::vector<Response> responses(3);
  auto inputs = InputStreams(batch, Share(responses), buffers, 4);
  ASSERT_EQ(inputs.size(), 1u);
  EXPECT_EQ(Contents(inputs[0]), Counting(5));
  auto outputs = OutputStreams(batch, Share(responses), buffers, 4);
  ASSERT_EQ(outputs.size(), 1u);
  outputs[0].Scatter(0, Counting(5));
  EXPECT_EQ(out_a, in_a);
  EXPECT_EQ(out_c, in_c);
}

TEST(Pack, AnAllgatherHasAStreamPerSourceRank) {
  // Ranks bring 1, 0 and 2 rows of [·, 2] bytes, and 2, 1 and 0 rows of [·, 1] int16.
  const std::vector<Response> responses{Response{}, Gathered({1, 0, 2}, 2, DType::kUInt8),
                                        Gathered({2, 1, 0}, 1, DType::kInt16)};
  std::vector<std::byte> first(6), second(6), unused;
  const std::array<MemberBuffers, 2> buffers{
      MemberBuffers{View(unused, {0, 2}), View(first, {3, 2})},
      MemberBuffers{View(unused, {0, 1}, DType::kInt16), View(second, {3, 1}, DType::kInt16)}};
  Batch batch;
  batch.params = responses[1].params;
  batch.members = {{1, 0}, {2, 0}};
  auto outputs = OutputStreams(batch, Share(responses), buffers, 3);
  ASSERT_EQ(outputs.size(), 3u);
  EXPECT_EQ(outputs[0].size(), 6u);
  EXPECT_EQ(outputs[1].size(), 2u);
  EXPECT_EQ(outputs[2].size(), 4u);
  outputs[0].Scatter(0, Counting(6, 0));
  outputs[1].Scatter(0, Counting(2, 6));
  outputs[2].Scatter(0, Counting(4, 8));
  const auto bytes = [](std::initializer_list<int> values) {
    std::vector<std::byte> all;
    for (const int value : values) all.push_back(std::byte(value));
    return all;
  };
  EXPECT_EQ(first, bytes({0, 1, 8, 9, 10, 11}));
  EXPECT_EQ(second, bytes({2, 3, 4, 5, 6, 7}));
}

TEST(Pack, AGroupOfGathersHasItsRowsByTensor) {
  // One response of two tensors: ranks bring 1 and 2 rows of [·, 2], and 2 and 1 rows of [·].
  Response group = Gathered({1, 2, 2, 1}, 2, DType::kUInt8);
  group.params.rest = {{DType::kUInt8, {0}}};
  const std::vector<Response> responses{group};
  std::vector<std::byte> first(6), second(3), unused;
  const std::array<MemberBuffers, 2> buffers{
      MemberBuffers{View(unused, {0, 2}), View(first, {3, 2})},
      MemberBuffers{View(unused, {0}), View(second, {3})}};
  Batch batch;
  batch.params = group.params;
  batch.members = {{0, 0}, {0, 1}};
  auto outputs = OutputStreams(batch, Share(responses), buffers, 2);
  ASSERT_EQ(outputs.size(), 2u);
  outputs[0].Scatter(0, Counting(4));
  outputs[1].Scatter(0, Counting(5, 4));
  EXPECT_EQ(first, (std::vector<std::byte>{std::byte(0), std::byte(1), std::byte(4), std::byte(5),
                                           std::byte(6), std::byte(7)}));
  EXPECT_EQ(second, (std::vector<std::byte>{std::byte(2), std::byte(3), std::byte(8)}));
}

TEST(Pack, AScatterHasAStreamPerDestination) {
  Response response;
  response.params = {.kind = OpKind::kReducescatter, .dtype = DType::kUInt8, .shape = {4, 2}};
  response.params.rest = {{DType::kUInt8, {2}}};
  const std::vector<Response> responses{response};
  auto first = Counting(8), second = Counting(2, 8);
  std::vector<std::byte> out_first(4), out_second(1);
  const std::array<MemberBuffers, 2> buffers{
      MemberBuffers{View(first, {4, 2}), View(out_first, {2, 2})},
      MemberBuffers{View(second, {2}), View(out_second, {1})}};
  Batch batch;
  batch.params = response.params;
  batch.members = {{0, 0}, {0, 1}};
  auto inputs = InputStreams(batch, Share(responses), buffers, 3);
  ASSERT_EQ(inputs.size(), 3u);
  EXPECT_EQ(Contents(inputs[0]), (std::vector<std::byte>{std::byte(0), std::byte(1), std::byte(2),
                                                         std::byte(3), std::byte(8)}));
  EXPECT_EQ(Contents(inputs[1]),
            (std::vector<std::byte>{std::byte(4), std::byte(5), std::byte(9)}));
  EXPECT_EQ(Contents(inputs[2]), (std::vector<std::byte>{std::byte(6), std::byte(7)}));
  auto outputs = OutputStreams(batch, Share(responses), buffers, 3);
  ASSERT_EQ(outputs.size(), 1u);
  EXPECT_EQ(outputs[0].size(), 5u);
}

TEST(Pack, SplitsByRows) {
  auto memory = Counting(12);
  const TensorView view = View(memory, {3, 2}, DType::kInt16);
  auto pieces = SplitByRows(view, std::vector<std::int64_t>{2, 0, 1});
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(Contents(pieces[0]), Counting(8));
  EXPECT_TRUE(pieces[1].empty());
  EXPECT_EQ(Contents(pieces[2]), Counting(4, 8));
  EXPECT_THROW(SplitByRows(view, std::vector<std::int64_t>{2, 2}), InvariantError);
  EXPECT_THROW(SplitByRows(view, std::vector<std::int64_t>{-1, 4}), InvariantError);
}

TEST(Pack, RefusesAnOutputThatIsTooSmall) {
  const std::vector<Response> responses{Gathered({1, 2}, 4, DType::kUInt8)};
  std::vector<std::byte> input(4), output(11);
  const std::array<MemberBuffers, 1> buffers{
      MemberBuffers{View(input, {1, 4}), View(output, {11})}};
  Batch batch;
  batch.params = responses[0].params;
  batch.members = {{0, 0}};
  EXPECT_THROW(OutputStreams(batch, Share(responses), buffers, 2), InvariantError);
}

}  // namespace
}  // namespace hora

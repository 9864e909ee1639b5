#include "hora/fusion/pack.h"

#include "hora/base/check.h"

namespace hora {
namespace {

// Rows of one rank in one member's output; rows of lower ranks lie before them.
class RowCursor {
 public:
  RowCursor(const Response& response, const TensorView& output)
      : response_(response),
        memory_(output.bytes()),
        row_bytes_(static_cast<std::size_t>(response.params.shape.elements_per_row()) *
                   SizeOf(response.params.dtype)) {}

  std::span<std::byte> RowsOf(int rank) {
    const std::size_t count =
        static_cast<std::size_t>(response_.first_dims[static_cast<std::size_t>(rank)]) * row_bytes_;
    Check(offset_ + count <= memory_.size(), "an allgather's output holds the rows of all ranks");
    const auto rows = memory_.subspan(offset_, count);
    offset_ += count;
    return rows;
  }

 private:
  const Response& response_;
  std::span<std::byte> memory_;
  std::size_t row_bytes_;
  std::size_t offset_ = 0;
};

}  // namespace

ByteStream InputStream(std::span<const MemberBuffers> buffers) {
  std::vector<std::span<std::byte>> segments;
  segments.reserve(buffers.size());
  for (const MemberBuffers& member : buffers) segments.push_back(member.input.bytes());
  return ByteStream(std::move(segments));
}

std::vector<ByteStream> OutputStreams(const Batch& batch, std::span<const Response> responses,
                                      std::span<const MemberBuffers> buffers, int size) {
  Check(batch.members.size() == buffers.size(), "a batch has one pair of buffers per member");
  const bool gathers = batch.params.kind == OpKind::kAllgather;
  std::vector<std::vector<std::span<std::byte>>> segments(gathers ? static_cast<std::size_t>(size)
                                                                  : 1u);
  for (auto& stream : segments) stream.reserve(buffers.size());
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (!gathers) {
      segments[0].push_back(buffers[i].output.bytes());
      continue;
    }
    RowCursor cursor(responses[batch.members[i]], buffers[i].output);
    for (int rank = 0; rank < size; ++rank) {
      segments[static_cast<std::size_t>(rank)].push_back(cursor.RowsOf(rank));
    }
  }
  std::vector<ByteStream> streams;
  streams.reserve(segments.size());
  for (auto& stream : segments) streams.emplace_back(std::move(stream));
  return streams;
}

}  // namespace hora

#include "hora/fusion/pack.h"

#include <utility>

#include "hora/base/check.h"

namespace hora {
namespace {

using Segments = std::vector<std::span<std::byte>>;

// Hands out a tensor's memory piece by piece, in rows.
class RowCursor {
 public:
  RowCursor(std::span<std::byte> memory, std::size_t row_bytes)
      : memory_(memory), row_bytes_(row_bytes) {}

  std::span<std::byte> Next(std::int64_t rows) {
    Check(rows >= 0, "a piece of a tensor has no negative number of rows");
    const std::size_t bytes = static_cast<std::size_t>(rows) * row_bytes_;
    Check(bytes <= memory_.size() - offset_, "a tensor holds the rows of all ranks");
    return memory_.subspan(std::exchange(offset_, offset_ + bytes), bytes);
  }

 private:
  std::span<std::byte> memory_;
  std::size_t row_bytes_;
  std::size_t offset_ = 0;
};

std::size_t RowBytes(const Shape& shape, DType dtype) {
  return static_cast<std::size_t>(shape.elements_per_row()) * SizeOf(dtype);
}

std::vector<ByteStream> StreamsOver(std::vector<Segments> segments) {
  std::vector<ByteStream> streams;
  streams.reserve(segments.size());
  for (Segments& stream : segments) streams.emplace_back(std::move(stream));
  return streams;
}

// One stream over the member's input or output memory.
std::vector<ByteStream> OneStream(std::span<const MemberBuffers> buffers,
                                  TensorView MemberBuffers::*view) {
  std::vector<Segments> segments(1);
  segments[0].reserve(buffers.size());
  for (const MemberBuffers& member : buffers) segments[0].push_back((member.*view).bytes());
  return StreamsOver(std::move(segments));
}

// A stream per rank, over rows_of(response, tensor, rank) consecutive rows of each member's memory.
template <class RowsOf>
std::vector<ByteStream> StreamPerRank(const Batch& batch, std::span<const Agreed> agreed,
                                      std::span<const MemberBuffers> buffers,
                                      TensorView MemberBuffers::*view, int size, RowsOf&& rows_of) {
  std::vector<Segments> segments(static_cast<std::size_t>(size));
  for (Segments& stream : segments) stream.reserve(buffers.size());
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const Response& response = *agreed[batch.members[i].response];
    const std::uint32_t tensor = batch.members[i].tensor;
    RowCursor cursor((buffers[i].*view).bytes(),
                     RowBytes(response.params.shape_of(tensor), response.params.dtype_of(tensor)));
    for (int rank = 0; rank < size; ++rank) {
      segments[static_cast<std::size_t>(rank)].push_back(
          cursor.Next(rows_of(response, tensor, rank)));
    }
  }
  return StreamsOver(std::move(segments));
}

void CheckBuffers(const Batch& batch, std::span<const MemberBuffers> buffers) {
  Check(batch.params.kind != OpKind::kAlltoall, "an alltoall's rows are known when it runs");
  Check(batch.members.size() == buffers.size(), "a batch has one pair of buffers per member");
}

}  // namespace

std::vector<ByteStream> InputStreams(const Batch& batch, std::span<const Agreed> agreed,
                                     std::span<const MemberBuffers> buffers, int size) {
  CheckBuffers(batch, buffers);
  if (batch.params.kind != OpKind::kReducescatter) return OneStream(buffers, &MemberBuffers::input);
  return StreamPerRank(batch, agreed, buffers, &MemberBuffers::input, size,
                       [size](const Response& response, std::uint32_t tensor, int rank) {
                         const std::int64_t rows = response.params.shape_of(tensor).dim(0);
                         return RowsOfRank(rows, rank, size).count;
                       });
}

std::vector<ByteStream> OutputStreams(const Batch& batch, std::span<const Agreed> agreed,
                                      std::span<const MemberBuffers> buffers, int size) {
  CheckBuffers(batch, buffers);
  if (batch.params.kind != OpKind::kAllgather) return OneStream(buffers, &MemberBuffers::output);
  return StreamPerRank(batch, agreed, buffers, &MemberBuffers::output, size,
                       [](const Response& response, std::uint32_t tensor, int rank) {
                         const std::size_t tensors = response.params.tensor_count();
                         const std::size_t first = static_cast<std::size_t>(rank) * tensors;
                         return response.first_dims[first + tensor];
                       });
}

std::vector<ByteStream> SplitByRows(const TensorView& view, std::span<const std::int64_t> rows) {
  RowCursor cursor(view.bytes(), RowBytes(view.shape, view.dtype));
  std::vector<ByteStream> streams;
  streams.reserve(rows.size());
  for (const std::int64_t count : rows) streams.emplace_back(Segments{cursor.Next(count)});
  return streams;
}

}  // namespace hora

#include "hora/tensor/byte_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hora/base/check.h"

namespace hora {

ByteStream::ByteStream(std::vector<std::span<std::byte>> segments)
    : segments_(std::move(segments)) {
  for (const auto& segment : segments_) size_ += segment.size();
}

void ByteStream::Gather(std::size_t offset, std::span<std::byte> to) {
  std::byte* into = to.data();
  ForEachPiece(offset, to.size(), [&into](std::span<const std::byte> piece) {
    std::memcpy(into, piece.data(), piece.size());
    into += piece.size();
  });
}

void ByteStream::Scatter(std::size_t offset, std::span<const std::byte> from) {
  const std::byte* next = from.data();
  ForEachPiece(offset, from.size(), [&next](std::span<std::byte> piece) {
    std::memcpy(piece.data(), next, piece.size());
    next += piece.size();
  });
}

std::span<std::byte> ByteStream::FirstPiece(std::size_t offset, std::size_t count) {
  Seek(offset);
  const auto piece = Current().subspan(offset - segment_begin_);
  return piece.first(std::min(count, piece.size()));
}

// From where the cursor stands, in either direction: a pipeline that looks one chunk ahead steps
// back and forth between neighbours.
void ByteStream::Seek(std::size_t offset) {
  Check(offset < size_, "a range begins inside its stream");
  while (offset < segment_begin_) segment_begin_ -= segments_[--segment_].size();
  while (segment_ + 1 < segments_.size() && offset >= segment_begin_ + Current().size()) {
    AdvanceSegment();
  }
}

void ByteStream::AdvanceSegment() {
  Check(segment_ + 1 < segments_.size(), "a range ends inside its stream");
  segment_begin_ += Current().size();
  ++segment_;
}

}  // namespace hora

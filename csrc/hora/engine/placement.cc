#include "hora/engine/placement.h"

#include <cstdint>

namespace hora {
namespace {

// Mixes `value` into `digest`, so that every bit of it counts, and its position, too: the finisher
// of the generator splitmix64.
std::uint64_t Mixed(std::uint64_t digest, std::uint64_t value) {
  std::uint64_t x = digest * 0x9e3779b97f4a7c15u + value + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

InPlacePlan& Placement::Plan(std::span<const MemberBuffers> members) {
  plan_.ranges.clear();
  plan_.digest = 0;
  plan_.bytes = 0;
  plan_.done = false;
  other_inputs_.clear();
  other_outputs_.clear();
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (Take(i, members[i]) || members[i].input.nbytes() == 0) continue;
    other_inputs_.push_back(members[i].input.bytes());
    other_outputs_.push_back(members[i].output.bytes());
  }
  if (plan_.ranges.empty()) return plan_;  // a digest of 0: nobody reduces in place
  if (plan_.digest == 0) plan_.digest = 1;
  plan_.other_inputs = ByteStream(other_inputs_);
  plan_.other_outputs = ByteStream(other_outputs_);
  return plan_;
}

bool Placement::Take(std::size_t member, const MemberBuffers& buffers) {
  std::byte* const data = buffers.input.data;
  const std::size_t bytes = buffers.input.nbytes();
  if (bytes == 0 || buffers.output.data != data) return false;
  const SymmetricMemory* const region = heap_->Find(data, bytes);
  if (region == nullptr) return false;
  const auto offset = static_cast<std::size_t>(data - region->slice().data());
  if (offset % SizeOf(buffers.input.dtype) != 0) return false;
  for (const std::uint64_t each :
       {std::uint64_t{member}, region->number(), std::uint64_t{offset}, std::uint64_t{bytes}}) {
    plan_.digest = Mixed(plan_.digest, each);
  }
  plan_.bytes += bytes;
  std::byte* const first = region->first_slice() + offset;
  // Neighbours are reduced in one go.
  if (!plan_.ranges.empty()) {
    SymmetricRange& last = plan_.ranges.back();
    if (last.first + last.bytes == first && last.stride == region->stride()) {
      last.bytes += bytes;
      return true;
    }
  }
  plan_.ranges.push_back({first, region->stride(), bytes});
  return true;
}

}  // namespace hora

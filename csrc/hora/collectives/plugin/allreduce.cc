#include <cmath>
#include <cstring>
#include <limits>

#include "hora/collectives/alone.h"
#include "hora/collectives/one_piece.h"
#include "hora/collectives/plugin/library_group.h"
#include "hora/collectives/steps.h"
#include "hora/kernels/reduce.h"

namespace hora {
namespace {

// Up to here (all operands together) one exchange, after which every rank reduces everything, is
// faster than two.
constexpr std::uint64_t kGatherBytes = 64u << 10;

// Ranks may have added NaNs in different orders, which shows in their bits.
template <class T>
void UnifyNans(std::span<std::byte> bytes) {
  constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  T* const values = reinterpret_cast<T*>(bytes.data());
  for (std::size_t i = 0; i < bytes.size() / sizeof(T); ++i) {
    if (std::isnan(values[i])) values[i] = kNan;
  }
}

// Steps of a piece each. Where the library knows the type and the operation it reduces; hora scales
// before and after. Else hora's kernels reduce what the library has moved, in the order of the
// ranks: each rank a slice, or, if it is little, everything.
class Allreduce {
 public:
  Allreduce(LibraryGroup& group, PluginStaging staging, CollectiveCall& call)
      : group_(group),
        staging_(staging),
        call_(call),
        spec_(SpecOf(call)),
        element_bytes_(SizeOf(spec_.dtype)),
        brings_(!call.absent.Contains(group.rank())),
        output_(call.outputs[0]) {}

  Status Run() {
    const std::uint64_t total = call_.bytes_per_rank[0];
    const bool by_library = LibraryReduces();
    for (std::uint64_t at = 0; at < total; at += staging_.piece_bytes) {
      const auto count =
          static_cast<std::size_t>(std::min<std::uint64_t>(total - at, staging_.piece_bytes));
      Status status;
      if (by_library) {
        status = ByLibrary(at, count);
      } else if (count * static_cast<std::uint64_t>(group_.size()) <= kGatherBytes) {
        status = Everything(at, count);
      } else {
        status = BySlices(at, count);
      }
      if (!status.ok()) return status;
    }
    return Status::Ok();
  }

 private:
  // Numbers that are added as floats of half their size are two numbers to the library.
  DType LibraryType() const {
    if (spec_.dtype == DType::kComplex64) return DType::kFloat32;
    return spec_.dtype == DType::kComplex128 ? DType::kFloat64 : spec_.dtype;
  }

  ReduceOp LibraryOp() const { return spec_.op == ReduceOp::kAverage ? ReduceOp::kSum : spec_.op; }

  bool HasScales() const { return spec_.prescale != 1.0 || spec_.postscale != 1.0; }

  // Integers that are scaled or averaged need exact sums, and 16 bits one rounding at the end.
  bool LibraryReduces() const {
    if (!call_.absent.empty() || !group_.Reduces(LibraryType(), LibraryOp())) return false;
    if (LibraryType() == DType::kFloat32 || LibraryType() == DType::kFloat64) return true;
    return !IsFloatingPoint(spec_.dtype) && spec_.op != ReduceOp::kAverage && !HasScales();
  }

  Status ByLibrary(std::size_t at, std::size_t count) {
    std::byte* direct = InOnePiece(output_, at, count, element_bytes_);
    const std::span<std::byte> buffer =
        direct != nullptr ? std::span(direct, count) : Room(staging_.second, count);
    std::byte* to = buffer.data();
    call_.inputs[0].ForEachPiece(at, count, [&](std::span<std::byte> piece) {
      if (spec_.prescale != 1.0) {
        Scale({.dtype = spec_.dtype, .prescale = spec_.prescale}, piece, to);
      } else if (piece.data() != to) {
        std::memcpy(to, piece.data(), piece.size());
      }
      to += piece.size();
    });
    if (Status status = group_.Allreduce(buffer, LibraryType(), LibraryOp()); !status.ok()) {
      return status;
    }
    const bool average = spec_.op == ReduceOp::kAverage;
    if (spec_.postscale != 1.0 || (average && spec_.divisor != 1)) {
      const ReduceSpec finish{.dtype = spec_.dtype,
                              .op = average ? ReduceOp::kAverage : ReduceOp::kSum,
                              .postscale = spec_.postscale,
                              .divisor = spec_.divisor};
      Scale(finish, buffer, buffer.data());
    } else {
      if (LibraryType() == DType::kFloat32) UnifyNans<float>(buffer);
      if (LibraryType() == DType::kFloat64) UnifyNans<double>(buffer);
    }
    if (direct == nullptr) output_.Scatter(at, buffer);
    return Status::Ok();
  }

  static void Scale(const ReduceSpec& spec, std::span<const std::byte> from, std::byte* to) {
    const std::byte* const source = from.data();
    Reduce(spec, {&source, 1}, {&to, 1}, from.size() / SizeOf(spec.dtype));
  }

  // This rank's operand, where it lies or in `memory`; null when it brings none.
  const std::byte* Operand(std::size_t at, std::size_t count, std::vector<std::byte>& memory) {
    if (!brings_) return nullptr;
    if (const std::byte* direct = InOnePiece(call_.inputs[0], at, count)) return direct;
    const std::span<std::byte> room = Room(memory, count);
    call_.inputs[0].Gather(at, room);
    return room.data();
  }

  // What each rank contributes when everybody who brings something brings `bytes`.
  std::vector<std::uint64_t> FromEach(std::uint64_t bytes) const {
    std::vector<std::uint64_t> from(static_cast<std::size_t>(group_.size()), bytes);
    for (const int rank : call_.absent.ranks()) from[static_cast<std::size_t>(rank)] = 0;
    return from;
  }

  // Operands of `count` bytes lie one after the other in `operands`; `to` may be the first of them.
  void ReduceInto(std::byte* to, const std::byte* operands, std::size_t count) {
    const auto brought = static_cast<std::size_t>(group_.size() - call_.absent.count());
    std::vector<const std::byte*> sources(brought);
    for (std::size_t i = 0; i < brought; ++i) sources[i] = operands + i * count;
    Reduce(spec_, sources, {&to, 1}, count / element_bytes_);
  }

  Status Everything(std::size_t at, std::size_t count) {
    const std::byte* const operand = Operand(at, count, staging_.first);
    const std::size_t room = count * static_cast<std::size_t>(group_.size());
    std::byte* const operands = Room(staging_.second, room).data();
    if (Status status = group_.Allgather(operand, operands, FromEach(count)); !status.ok()) {
      return status;
    }
    ReduceInto(operands, operands, count);
    output_.Scatter(at, {operands, count});
    return Status::Ok();
  }

  Status BySlices(std::size_t at, std::size_t count) {
    const std::vector<std::uint64_t> slices = SlicesOf(count);
    const std::uint64_t own = slices[static_cast<std::size_t>(group_.rank())];
    const std::byte* const operand = Operand(at, count, staging_.first);
    const std::vector<std::uint64_t> sends(slices.size(), 0);
    const std::size_t room = static_cast<std::size_t>(own) * slices.size();
    std::byte* const operands = Room(staging_.second, room).data();
    Status status = group_.Alltoall(operand, brings_ ? slices : sends, operands, FromEach(own));
    if (!status.ok()) return status;
    ReduceInto(operands, operands, static_cast<std::size_t>(own));
    std::byte* const direct = InOnePiece(output_, at, count);
    std::byte* const results = direct != nullptr ? direct : Room(staging_.first, count).data();
    status = group_.Allgather(operands, results, slices);
    if (status.ok() && direct == nullptr) output_.Scatter(at, {results, count});
    return status;
  }

  // Bytes of each rank's slice of a piece: even, of whole elements.
  std::vector<std::uint64_t> SlicesOf(std::size_t count) const {
    const auto size = static_cast<std::size_t>(group_.size());
    const std::size_t elements = count / element_bytes_;
    std::vector<std::uint64_t> bytes(size);
    for (std::size_t rank = 0; rank < size; ++rank) {
      bytes[rank] = (elements / size + (rank < elements % size ? 1 : 0)) * element_bytes_;
    }
    return bytes;
  }

  LibraryGroup& group_;
  PluginStaging staging_;
  CollectiveCall& call_;
  const ReduceSpec spec_;
  const std::size_t element_bytes_;
  const bool brings_;
  ByteStream& output_;
};

}  // namespace

Status PluginAllreduce(LibraryGroup& group, PluginStaging staging, CollectiveCall& call) {
  return Allreduce(group, staging, call).Run();
}

}  // namespace hora

#include "hora/collectives/adasum.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "hora/base/check.h"
#include "hora/collectives/adasum_arithmetic.h"

namespace hora {
namespace {

using adasum::Dots;

// A tensor's elements [begin, end) of a slice.
struct Extent {
  std::size_t begin = 0;
  std::size_t end = 0;
};

// One batch on one rank. `Element` is how the tensors are stored.
template <class Element>
class Adasum {
  using Value = typename Element::Value;

 public:
  Adasum(CollectiveBackend& backend, int rank, CollectiveCall& call)
      : backend_(backend),
        call_(call),
        rank_(rank),
        slice_(SliceOf(rank)),
        memory_(std::make_unique_for_overwrite<Value[]>(
            slice_.elements() * static_cast<std::size_t>(call.size - call.absent.count()))) {
    FindTensors();
  }

  Status Run() {
    if (Status status = BringSlices(); !status.ok()) return status;
    while (vectors_.size() > 1) {
      if (Status status = CombinePairs(); !status.ok()) return status;
    }
    return HandOutResults();
  }

 private:
  struct Slice {
    std::uint64_t begin = 0;  // of the batch, in elements
    std::uint64_t end = 0;

    std::size_t elements() const { return static_cast<std::size_t>(end - begin); }
    std::uint64_t bytes() const { return (end - begin) * Element::kBytes; }
  };

  Slice SliceOf(int rank) const {
    const std::uint64_t elements = call_.bytes_per_rank[0] / Element::kBytes;
    const auto size = static_cast<std::uint64_t>(call_.size);
    const auto cut = [&](std::uint64_t r) {  // elements · r / size, without overflow
      return elements / size * r + elements % size * r / size;
    };
    return {cut(static_cast<std::uint64_t>(rank)), cut(static_cast<std::uint64_t>(rank) + 1)};
  }

  // Which part of each tensor lies in this rank's slice.
  void FindTensors() {
    std::uint64_t begin = 0;
    for (const std::uint64_t bytes : call_.tensor_bytes) {
      Check(bytes % Element::kBytes == 0, "a tensor has whole elements");
      const std::uint64_t end = begin + bytes / Element::kBytes;
      const auto inside = [&](std::uint64_t element) {
        return static_cast<std::size_t>(std::clamp(element, slice_.begin, slice_.end) -
                                        slice_.begin);
      };
      tensors_.push_back({inside(begin), inside(end)});
      begin = end;
    }
    Check(begin * Element::kBytes == call_.bytes_per_rank[0], "the tensors make up the batch");
  }

  CollectiveCall Part(OpKind kind) const {
    CollectiveCall call;
    call.params.kind = kind;
    call.params.dtype = call_.params.dtype;
    call.params.device = call_.params.device;
    call.size = call_.size;
    return call;
  }

  // Leaves in vectors_ this rank's slice of every present rank's batch, prescaled. An absent rank
  // sends nothing.
  Status BringSlices() {
    CollectiveCall call = Part(OpKind::kAlltoall);
    const bool bring = !call_.absent.Contains(rank_);
    for (int r = 0; r < call_.size; ++r) {
      call.inputs.push_back(bring ? PartOf(call_.inputs[0], SliceOf(r)) : ByteStream());
      ExpectFrom(r, call);
    }
    if (Status status = backend_.Execute(call); !status.ok()) return status;
    for (const std::span<Value> vector : vectors_) {
      adasum::Widen<Element>(vector, static_cast<Value>(call_.params.prescale));
    }
    return Status::Ok();
  }

  void ExpectFrom(int rank, CollectiveCall& call) {
    if (call_.absent.Contains(rank)) {
      call.bytes_per_rank.insert(call.bytes_per_rank.end(), static_cast<std::size_t>(call.size), 0);
      call.outputs.emplace_back();
      return;
    }
    for (int to = 0; to < call.size; ++to) call.bytes_per_rank.push_back(SliceOf(to).bytes());
    const std::size_t elements = slice_.elements();
    vectors_.emplace_back(memory_.get() + vectors_.size() * elements, elements);
    call.outputs.push_back(ByteStream({adasum::StoredAtEnd<Element>(vectors_.back())}));
  }

  // One level of the tree: 2i and 2i + 1 become i; the last of an odd number passes through.
  Status CombinePairs() {
    const std::size_t pairs = vectors_.size() / 2;
    std::vector<Dots> dots(pairs * tensors_.size());
    ForEachPairOfTensors(dots, [&](std::span<Value> a, std::span<Value> b, Dots& of_both) {
      of_both = adasum::DotsOf<Value>(a, b);
    });
    if (Status status = SumOverRanks(dots); !status.ok()) return status;
    ForEachPairOfTensors(dots, [&](std::span<Value> a, std::span<Value> b, const Dots& of_both) {
      adasum::CombineInto<Value>(a, b, of_both);
    });
    for (std::size_t i = 1; 2 * i < vectors_.size(); ++i) vectors_[i] = vectors_[2 * i];
    vectors_.resize(vectors_.size() - pairs);
    return Status::Ok();
  }

  template <class Visit>
  void ForEachPairOfTensors(std::vector<Dots>& dots, Visit&& visit) {
    std::size_t next = 0;
    for (std::size_t i = 0; i + 1 < vectors_.size(); i += 2) {
      for (const Extent& tensor : tensors_) {
        const std::size_t count = tensor.end - tensor.begin;
        visit(vectors_[i].subspan(tensor.begin, count),
              vectors_[i + 1].subspan(tensor.begin, count), dots[next++]);
      }
    }
  }

  Status SumOverRanks(std::vector<Dots>& dots) {
    const auto size = static_cast<std::size_t>(call_.size);
    std::vector<Dots> of_all(dots.size() * size);
    CollectiveCall call = Part(OpKind::kAllgather);
    call.params.dtype = DType::kFloat64;
    call.bytes_per_rank.assign(size, dots.size() * sizeof(Dots));
    call.inputs.push_back(ByteStream({std::as_writable_bytes(std::span(dots))}));
    for (std::size_t r = 0; r < size; ++r) {
      const auto part = std::span(of_all).subspan(r * dots.size(), dots.size());
      call.outputs.push_back(ByteStream({std::as_writable_bytes(part)}));
    }
    if (Status status = backend_.Execute(call); !status.ok()) return status;
    std::ranges::fill(dots, Dots{});
    for (std::size_t i = 0; i < of_all.size(); ++i) dots[i % dots.size()] += of_all[i];
    return Status::Ok();
  }

  Status HandOutResults() {
    CollectiveCall call = Part(OpKind::kAllgather);
    const auto postscale = static_cast<Value>(call_.params.postscale);
    call.inputs.push_back(ByteStream({adasum::Narrow<Element>(vectors_[0], postscale)}));
    for (int r = 0; r < call_.size; ++r) {
      call.bytes_per_rank.push_back(SliceOf(r).bytes());
      call.outputs.push_back(PartOf(call_.outputs[0], SliceOf(r)));
    }
    return backend_.Execute(call);
  }

  static ByteStream PartOf(ByteStream& batch, const Slice& slice) {
    std::vector<std::span<std::byte>> pieces;
    batch.ForEachPiece(slice.begin * Element::kBytes, slice.bytes(),
                       [&](std::span<std::byte> piece) { pieces.push_back(piece); });
    return ByteStream(std::move(pieces));
  }

  CollectiveBackend& backend_;
  CollectiveCall& call_;
  const int rank_;
  const Slice slice_;
  std::vector<Extent> tensors_;            // in the slice; empty ones too
  const std::unique_ptr<Value[]> memory_;  // the slice of every rank that brings one
  std::vector<std::span<Value>> vectors_;  // in it: what is left of the tree
};

}  // namespace

Status RunAdasum(CollectiveBackend& backend, int rank, CollectiveCall& call) {
  Check(call.params.kind == OpKind::kAllreduce && call.params.reduce_op == ReduceOp::kAdasum,
        "an adasum is an allreduce");
  Check(call.bytes_per_rank.size() == 1 && call.outputs.size() == 1 &&
            call.outputs[0].size() == call.bytes_per_rank[0],
        "the output has the agreed size");
  Check(call.absent.Contains(rank) ||
            (call.inputs.size() == 1 && call.inputs[0].size() == call.bytes_per_rank[0]),
        "the input has the agreed size");
  Check(call.absent.count() < call.size, "a reduction has an operand");
  switch (call.params.dtype) {
    case DType::kFloat16:
      return Adasum<adasum::Half>(backend, rank, call).Run();
    case DType::kBFloat16:
      return Adasum<adasum::BFloat16>(backend, rank, call).Run();
    case DType::kFloat32:
      return Adasum<adasum::Plain<float>>(backend, rank, call).Run();
    case DType::kFloat64:
      return Adasum<adasum::Plain<double>>(backend, rank, call).Run();
    default:
      InvariantFailed("adasum takes fp16, bf16, fp32 or fp64", std::source_location::current());
  }
}

}  // namespace hora

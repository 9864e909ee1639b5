#include "hora/collectives/nccl/moves.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "hora/base/format.h"
#include "hora/collectives/one_piece.h"
#include "hora/collectives/paired_pieces.h"
#include "hora/cuda/beside_capture.h"

namespace hora {
namespace {

using nccl::Api;
using nccl::Comm;

constexpr nccl::DataType kBytes = nccl::DataType::kUint8;

bool Changes(const ElementCopy& element) { return element.scale != 1.0 || element.divisor != 1; }

// The first that is neither through nor in progress.
void Join(nccl::Result& all, nccl::Result one) {
  if (all == nccl::Result::kSuccess || all == nccl::Result::kInProgress) all = one;
}

std::uint64_t TotalOf(const std::vector<std::uint64_t>& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0});
}

bool AreEqual(const std::vector<std::uint64_t>& bytes) {
  return std::adjacent_find(bytes.begin(), bytes.end(), std::not_equal_to<>()) == bytes.end();
}

std::uint64_t SizeOfAll(const std::vector<ByteStream>& streams) {
  std::uint64_t bytes = 0;
  for (const ByteStream& stream : streams) bytes += stream.size();
  return bytes;
}

// Kernels like the beginnings of cache lines.
std::uint64_t Rounded(std::uint64_t bytes) { return (bytes + 255) / 256 * 256; }

// Of NCCL, whose memory all GPUs and NVLink's switches can be given; of a version that has none, as
// all other memory: on all ranks, whose versions are the same. One that fails alone must not go on
// with memory of another kind than the others'.
DeviceMemorySource NcclMemory(const NcclCommunicator& communicator,
                              const std::shared_ptr<DeviceRuntime>& runtime, int device) {
  DeviceMemorySource plain = DeviceMemorySource::OfRuntime(runtime, device);
  const Api& api = communicator.library().api();
  if (api.mem_alloc == nullptr || api.mem_free == nullptr) return plain;
  return {
      .allocate = [&api](std::size_t bytes) -> Result<std::byte*> {
        void* memory = nullptr;
        const nccl::Result made = api.mem_alloc(&memory, bytes);
        if (made == nccl::Result::kSuccess) return static_cast<std::byte*>(memory);
        return Fail(Error(StatusCode::kResource, "ncclMemAlloc: {} (NCCL_DEBUG=WARN shows more)",
                          api.get_error_string(made)));
      },
      .free =
          [runtime, free = api.mem_free](std::byte* memory) {
            const BesideCapture beside(*runtime);
            static_cast<void>(free(memory));
          }};
}

}  // namespace

NcclFusionMemory::NcclFusionMemory(const std::shared_ptr<DeviceRuntime>& runtime, int device,
                                   NcclCommunicator& communicator, const MakeRoom& make_room)
    : runtime_(runtime),
      communicator_(communicator),
      alike_(NcclMemory(communicator, runtime, device), device, make_room),
      own_(runtime, device, make_room) {}

Result<std::byte*> NcclFusionMemory::Reserve(std::size_t bytes, bool alike) {
  DeviceBuffer& buffer = alike ? alike_ : own_;
  if (Has(bytes, alike)) return buffer.whole().data();
  const BesideCapture beside(*runtime_);  // NCCL's own calls of the driver mind captures
  const Result<std::span<std::byte>> memory = buffer.Reserve(bytes);
  if (!memory) {
    const NcclCommunicatorOptions& options = communicator_.options();
    return Fail(Error(memory.error().code(), "rank {}: {}", options.names.Of(options.rank),
                      memory.error().message()));
  }
  if (alike) {
    const std::span<std::byte> whole = buffer.whole();  // what is asked for later lies in it, too
    auto registration = communicator_.Register(whole.data(), whole.size());
    if (!registration) return Fail(std::move(registration.error()));
    registrations_.push_back(std::move(*registration));
  }
  return memory->data();
}

// Wide numbers are divided at the end, by NCCL itself where the divisor is what it takes. Narrow
// ones are divided first: the sum of many could leave their range.
NcclMoves::Scaling NcclMoves::ScalingOf() const {
  const OpParams& params = call_.params;
  const DType dtype = ComponentOf(params.dtype);
  Scaling scaling{.before = {.from = dtype, .to = dtype}, .after = {.from = dtype, .to = dtype}};
  if (dtype == DType::kBool) return scaling;
  scaling.before.scale = params.prescale;
  scaling.after.scale = params.postscale;
  if (params.reduce_op != ReduceOp::kAverage) return scaling;
  const bool wide = SizeOf(dtype) > 2;
  scaling.by_nccl = wide && call_.absent.empty() && call_.divisor == call_.size;
  if (scaling.by_nccl) return scaling;
  (wide ? scaling.after : scaling.before).divisor = call_.divisor;
  return scaling;
}

Result<std::byte*> NcclMoves::Memory(std::size_t bytes) {
  if (memory_.Has(bytes, call_.fused)) return memory_.Reserve(bytes, call_.fused);
  const Result<bool> capturing = runtime_.IsCapturing(call_.stream);
  if (!capturing) return Fail(capturing.error());
  if (!*capturing) return memory_.Reserve(bytes, call_.fused);
  return Fail(Error(StatusCode::kInvalidArgument,
                    "{} needs {} bytes that are not there yet, while its stream is being captured "
                    "into a CUDA graph: run the same operation once before the capture",
                    ToString(call_.params.kind), bytes));
}

// A batch of several tensors may lie together on one rank, and apart on another.
std::byte* NcclMoves::Lying(ByteStream& stream, std::uint64_t bytes, std::size_t alignment) {
  return call_.fused ? nullptr : InOnePiece(stream, 0, bytes, alignment);
}

std::byte* NcclMoves::Lying(std::vector<ByteStream>& streams, std::size_t alignment) {
  std::byte* const data = call_.fused ? nullptr : OneAfterTheOther(streams);
  return reinterpret_cast<std::uintptr_t>(data) % alignment == 0 ? data : nullptr;
}

Status NcclMoves::CopyPieces(const std::vector<PieceCopy>& pieces, const ElementCopy& element) {
  if (pieces.empty()) return Status::Ok();
  return runtime_.CopyMany(pieces, element, call_.stream);
}

Status NcclMoves::Copy(ByteStream& from, ByteStream& to, const ElementCopy& element) {
  std::vector<PieceCopy> pieces;
  const std::size_t size = SizeOf(element.from);
  ForEachPair(from, to, 0, to.size(), [&](std::byte* source, std::byte* target, std::size_t bytes) {
    if (source != target || Changes(element)) pieces.push_back({source, target, bytes / size});
  });
  return CopyPieces(pieces, element);
}

Status NcclMoves::Pack(std::vector<ByteStream>& from, std::byte* to, const ElementCopy& element) {
  std::vector<PieceCopy> pieces;
  for (ByteStream& stream : from) {
    stream.ForEachPiece(0, stream.size(), [&](std::span<std::byte> piece) {
      if (piece.data() != to || Changes(element)) {
        pieces.push_back({piece.data(), to, piece.size() / SizeOf(element.from)});
      }
      to += piece.size();
    });
  }
  return CopyPieces(pieces, element);
}

Status NcclMoves::Unpack(std::byte* from, std::vector<ByteStream>& to, const ElementCopy& element) {
  std::vector<PieceCopy> pieces;
  for (ByteStream& stream : to) {
    stream.ForEachPiece(0, stream.size(), [&](std::span<std::byte> piece) {
      pieces.push_back({from, piece.data(), piece.size() / SizeOf(element.from)});
      from += piece.size();
    });
  }
  return CopyPieces(pieces, element);
}

Status NcclMoves::ScaleInPlace(std::byte* data, std::uint64_t bytes, const ElementCopy& element) {
  if (!Changes(element) || bytes == 0) return Status::Ok();
  return CopyPieces({{data, data, bytes / SizeOf(element.from)}}, element);
}

Status NcclMoves::Neutral(std::byte* to, std::uint64_t bytes) {
  const NeutralElement neutral(call_.params.dtype, call_.params.reduce_op);
  return runtime_.Fill(to, neutral.bytes(), bytes / neutral.bytes().size(), call_.stream);
}

Status NcclMoves::Alone() {
  const OpParams& params = call_.params;
  if (params.kind == OpKind::kBarrier || params.kind == OpKind::kJoin) return Status::Ok();
  ElementCopy element = Bytes();
  if (params.kind == OpKind::kAllreduce || params.kind == OpKind::kReducescatter) {
    element.from = element.to = ComponentOf(params.dtype);
    if (params.dtype != DType::kBool) {
      element.scale = params.prescale * params.postscale;
      element.divisor = params.reduce_op == ReduceOp::kAverage ? call_.divisor : 1;
    }
  }
  return Copy(call_.inputs[0], call_.outputs[0], element);
}

Status NcclMoves::Allreduce(const NcclReduction& reduction) {
  const std::uint64_t bytes = call_.bytes_per_rank[0];
  if (bytes == 0) return Status::Ok();
  const Scaling scaling = ScalingOf();
  const std::size_t size = SizeOf(scaling.before.from);
  std::byte* const lying = Lying(call_.outputs[0], bytes, size);
  std::byte* work = lying;
  if (work == nullptr) {
    const Result<std::byte*> memory = Memory(bytes);
    if (!memory) return memory.error();
    work = *memory;
  }
  const bool brings = !call_.absent.Contains(communicator_->options().rank);
  std::byte* from = nullptr;
  if (brings && !Changes(scaling.before)) from = Lying(call_.inputs[0], bytes, size);
  Status status;
  if (from == nullptr) {
    from = work;
    status = brings ? Pack(call_.inputs, work, scaling.before) : Neutral(work, bytes);
  }
  if (!status.ok()) return status;
  const nccl::RedOp op = scaling.by_nccl ? nccl::RedOp::kAvg : reduction.op;
  status = communicator_->Enqueue("allreduce", [&](const Api& api, Comm comm) {
    return api.all_reduce(from, work, bytes / size, reduction.type, op, comm, call_.stream.native);
  });
  if (!status.ok()) return status;
  return lying == nullptr ? Unpack(work, call_.outputs, scaling.after)
                          : ScaleInPlace(work, bytes, scaling.after);
}

Status NcclMoves::Reducescatter(const NcclReduction& reduction) {
  const std::vector<std::uint64_t>& shares = call_.bytes_per_rank;
  const std::uint64_t total = TotalOf(shares);
  if (total == 0) return Status::Ok();
  const int self = communicator_->options().rank;
  const std::uint64_t own = shares[static_cast<std::size_t>(self)];
  const Scaling scaling = ScalingOf();
  const std::size_t size = SizeOf(scaling.before.from);
  std::byte* from = Changes(scaling.before) ? nullptr : Lying(call_.inputs, size);
  std::byte* const lying = Lying(call_.outputs[0], own, size);
  const bool packs = from == nullptr;
  std::byte* to = lying;
  if (packs || lying == nullptr) {
    const Result<std::byte*> memory = Memory(Rounded(total) + own);
    if (!memory) return memory.error();
    if (packs) from = *memory;
    if (lying == nullptr) to = *memory + Rounded(total);
  }
  Status status = packs ? Pack(call_.inputs, from, scaling.before) : Status::Ok();
  if (!status.ok()) return status;
  const nccl::RedOp op = scaling.by_nccl ? nccl::RedOp::kAvg : reduction.op;
  void* const stream = call_.stream.native;
  status = communicator_->Enqueue("reducescatter", [&](const Api& api, Comm comm) {
    if (AreEqual(shares)) {
      return api.reduce_scatter(from, to, own / size, reduction.type, op, comm, stream);
    }
    nccl::Result all = nccl::Result::kSuccess;
    std::byte* part = from;
    for (int rank = 0; rank < call_.size; ++rank) {
      const std::uint64_t bytes = shares[static_cast<std::size_t>(rank)];
      if (bytes != 0) {
        Join(all, api.reduce(part, rank == self ? to : nullptr, bytes / size, reduction.type, op,
                             rank, comm, stream));
      }
      part += bytes;
    }
    return all;
  });
  if (!status.ok()) return status;
  return lying == nullptr ? Unpack(to, call_.outputs, scaling.after)
                          : ScaleInPlace(to, own, scaling.after);
}

Status NcclMoves::Allgather() {
  const std::vector<std::uint64_t>& shares = call_.bytes_per_rank;
  const std::uint64_t total = TotalOf(shares);
  if (total == 0) return Status::Ok();
  const std::uint64_t own = shares[static_cast<std::size_t>(communicator_->options().rank)];
  std::byte* from = Lying(call_.inputs[0], own, 1);
  std::byte* const lying = Lying(call_.outputs, 1);
  const bool packs = from == nullptr && own != 0;
  std::byte* to = lying;
  if (packs || lying == nullptr) {
    const Result<std::byte*> memory = Memory(Rounded(total) + own);
    if (!memory) return memory.error();
    if (lying == nullptr) to = *memory;
    if (packs) from = *memory + Rounded(total);
  }
  Status status = packs ? Pack(call_.inputs, from, Bytes()) : Status::Ok();
  if (!status.ok()) return status;
  void* const stream = call_.stream.native;
  status = communicator_->Enqueue("allgather", [&](const Api& api, Comm comm) {
    if (AreEqual(shares)) return api.all_gather(from, to, own, kBytes, comm, stream);
    nccl::Result all = nccl::Result::kSuccess;
    std::byte* part = to;
    for (int rank = 0; rank < call_.size; ++rank) {
      const std::uint64_t bytes = shares[static_cast<std::size_t>(rank)];
      const bool is_root = rank == communicator_->options().rank;
      if (bytes != 0) {
        Join(all, api.broadcast(is_root ? from : part, part, bytes, kBytes, rank, comm, stream));
      }
      part += bytes;
    }
    return all;
  });
  if (!status.ok()) return status;
  return lying == nullptr ? Unpack(to, call_.outputs, Bytes()) : Status::Ok();
}

Status NcclMoves::Broadcast() {
  const std::uint64_t bytes = call_.bytes_per_rank[0];
  if (bytes == 0) return Status::Ok();
  const int root = call_.params.root_rank;
  const bool is_root = communicator_->options().rank == root;
  // The root's own output is a copy of its input: not by way of NCCL, which works in place there.
  std::vector<ByteStream>& streams = is_root ? call_.inputs : call_.outputs;
  std::byte* const lying = Lying(streams[0], bytes, 1);
  std::byte* data = lying;
  if (data == nullptr) {
    const Result<std::byte*> memory = Memory(bytes);
    if (!memory) return memory.error();
    data = *memory;
  }
  Status status = is_root && lying == nullptr ? Pack(streams, data, Bytes()) : Status::Ok();
  if (!status.ok()) return status;
  status = communicator_->Enqueue("broadcast", [&](const Api& api, Comm comm) {
    return api.broadcast(data, data, bytes, kBytes, root, comm, call_.stream.native);
  });
  if (!status.ok()) return status;
  if (is_root) return Copy(call_.inputs[0], call_.outputs[0], Bytes());
  return lying != nullptr ? Status::Ok() : Unpack(data, streams, Bytes());
}

Status NcclMoves::Alltoall() {
  if (TotalOf(call_.bytes_per_rank) == 0) return Status::Ok();
  // Own bytes are copied, but where there are no others NCCL gets them: it is called to be tried.
  const std::size_t self = call_.size == 1
                               ? call_.inputs.size()
                               : static_cast<std::size_t>(communicator_->options().rank);
  std::byte* from = Lying(call_.inputs, 1);
  std::byte* to = Lying(call_.outputs, 1);
  const bool packs = from == nullptr, unpacks = to == nullptr;
  if (packs || unpacks) {
    const std::uint64_t sent = Rounded(SizeOfAll(call_.inputs));
    const Result<std::byte*> memory = Memory(sent + SizeOfAll(call_.outputs));
    if (!memory) return memory.error();
    if (packs) from = *memory;
    if (unpacks) to = *memory + sent;
  }
  Status status;
  if (call_.size != 1) status = Copy(call_.inputs[self], call_.outputs[self], Bytes());
  if (!status.ok()) return status;
  if (packs) status = Pack(call_.inputs, from, Bytes());
  if (!status.ok()) return status;
  void* const stream = call_.stream.native;
  status = communicator_->Enqueue("alltoall", [&](const Api& api, Comm comm) {
    nccl::Result all = nccl::Result::kSuccess;
    std::byte* source = from;
    std::byte* target = to;
    for (std::size_t peer = 0; peer < call_.inputs.size(); ++peer) {
      const std::size_t sends = call_.inputs[peer].size(), receives = call_.outputs[peer].size();
      const int rank = static_cast<int>(peer);
      if (peer != self && sends != 0)
        Join(all, api.send(source, sends, kBytes, rank, comm, stream));
      if (peer != self && receives != 0) {
        Join(all, api.recv(target, receives, kBytes, rank, comm, stream));
      }
      source += sends;
      target += receives;
    }
    return all;
  });
  if (!status.ok() || !unpacks) return status;
  // Own bytes are there already, and what lies in their place here means nothing.
  std::byte* part = to;
  std::vector<PieceCopy> pieces;
  for (std::size_t peer = 0; peer < call_.outputs.size(); ++peer) {
    ByteStream& output = call_.outputs[peer];
    output.ForEachPiece(0, output.size(), [&](std::span<std::byte> piece) {
      if (peer != self) pieces.push_back({part, piece.data(), piece.size()});
      part += piece.size();
    });
  }
  return CopyPieces(pieces, Bytes());
}

}  // namespace hora

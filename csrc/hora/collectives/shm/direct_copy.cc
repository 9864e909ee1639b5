#include "hora/collectives/shm/direct_copy.h"

#include <unistd.h>

#include <algorithm>
#include <random>

#include "hora/collectives/paired_pieces.h"

namespace hora {
namespace {

// Work between two looks at what else there is to do.
constexpr std::size_t kPieceBytes = 512u << 10;

// What a window holds: these words, then of every input the number of its pieces and of each piece
// address and length.
enum TableWord : std::size_t { kProcess, kProofAddress, kProof, kComplete, kLists };

std::uint64_t RandomNumber() {
  std::random_device random;
  return (std::uint64_t{random()} << 32) | random();
}

std::uint64_t AddressOf(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory); }

std::span<std::uint64_t> TableIn(StepWindows& windows, int rank, std::uint64_t step) {
  return {reinterpret_cast<std::uint64_t*>(windows.Window(rank, step)), windows.window_bytes() / 8};
}

// False when there is no room.
bool List(std::vector<ByteStream>& streams, std::span<std::uint64_t> into) {
  std::size_t at = 0;
  for (ByteStream& stream : streams) {
    const std::size_t count_at = at++;
    std::uint64_t count = 0;
    stream.ForEachPiece(0, stream.size(), [&](std::span<const std::byte> piece) {
      if (at + 2 <= into.size()) {
        into[at] = AddressOf(piece.data());
        into[at + 1] = piece.size();
      }
      at += 2;
      ++count;
    });
    if (at > into.size()) return false;
    into[count_at] = count;
  }
  return true;
}

}  // namespace

DirectCopy::DirectCopy(const StepWindows& windows, std::uint64_t min_bytes, ReadMemory read)
    : min_bytes_(min_bytes),
      read_(read),
      proof_(RandomNumber()),
      works_(windows.size() > 1 &&
             windows.window_bytes() / 8 >= kLists + 3 * static_cast<std::size_t>(windows.size())),
      proven_(static_cast<std::size_t>(windows.size())) {}

Result<bool> DirectCopy::Run(StepWindows& windows, CollectiveCall& call, std::string_view what) {
  const Result<bool> told = TellWhere(windows, call, what);
  if (!told || !*told) return told;
  const auto self = static_cast<std::size_t>(windows.self());
  const std::size_t stream = call.params.kind == OpKind::kAllgather ? 0 : self;
  bool succeeded = true;
  for (int i = 1; succeeded && i < windows.size(); ++i) {  // not all from the same rank at a time
    const int rank = (windows.self() + i) % windows.size();
    const Result<bool> read =
        ReadFrom(windows, rank, stream, call.outputs[static_cast<std::size_t>(rank)]);
    if (!read) return read;
    succeeded = *read;
  }
  return Agree(windows, succeeded, what);
}

// One step; what this rank keeps to itself is copied before the others are waited for.
Result<bool> DirectCopy::TellWhere(StepWindows& windows, CollectiveCall& call,
                                   std::string_view what) {
  step_ = windows.Begin(what, 1);
  if (Status status = windows.Acquire(step_); !status.ok()) return Fail(std::move(status));
  const std::span<std::uint64_t> table = TableIn(windows, windows.self(), step_);
  table[kProcess] = static_cast<std::uint64_t>(getpid());
  table[kProofAddress] = AddressOf(&proof_);
  table[kProof] = proof_;
  table[kComplete] = List(call.inputs, table.subspan(kLists)) ? 1 : 0;
  windows.PublishCopied(step_);
  if (Status status = CopyOwn(windows, call); !status.ok()) return Fail(std::move(status));
  if (Status status = windows.AwaitCopied(step_); !status.ok()) return Fail(std::move(status));
  for (int rank = 0; rank < windows.size(); ++rank) {
    if (TableIn(windows, rank, step_)[kComplete] == 0) return false;
  }
  return true;
}

// The next step: to have placed it is to be done with the others' memory.
Result<bool> DirectCopy::Agree(StepWindows& windows, bool succeeded, std::string_view what) {
  const std::uint64_t step = windows.Begin(what, 1);
  if (Status status = windows.Acquire(step); !status.ok()) return Fail(std::move(status));
  TableIn(windows, windows.self(), step)[0] = succeeded ? 1 : 0;
  windows.PublishCopied(step);
  if (Status status = windows.AwaitCopied(step); !status.ok()) return Fail(std::move(status));
  for (int rank = 0; rank < windows.size(); ++rank) {
    works_ = works_ && TableIn(windows, rank, step)[0] != 0;
  }
  return works_;
}

Status DirectCopy::CopyOwn(StepWindows& windows, CollectiveCall& call) {
  const auto self = static_cast<std::size_t>(windows.self());
  ByteStream& from = call.inputs[call.params.kind == OpKind::kAllgather ? 0 : self];
  for (std::size_t at = 0; at < from.size(); at += kPieceBytes) {
    if (Status status = windows.GiveWay(); !status.ok()) return status;
    CopyPieces(from, call.outputs[self], at, std::min(kPieceBytes, from.size() - at));
  }
  return Status::Ok();
}

Result<bool> DirectCopy::ReadFrom(StepWindows& windows, int rank, std::size_t stream,
                                  ByteStream& output) {
  const std::uint64_t* const table = TableIn(windows, rank, step_).data();
  if (!IsRightProcess(table, rank)) return false;
  const std::uint64_t* list = table + kLists;
  for (std::size_t i = 0; i < stream; ++i) list += 1 + 2 * *list;
  Cursor cursor{.next = list + 1, .left = *list};
  Pieces there, here;
  for (std::size_t at = 0; at < output.size();) {
    if (Status status = windows.GiveWay(); !status.ok()) return Fail(std::move(status));
    const std::size_t bytes = std::min(kPieceBytes, output.size() - at);
    std::size_t targets = 0;
    output.ForEachPiece(at, bytes, [&](std::span<std::byte> piece) {
      if (targets < kMaxPieces) here[targets++] = {piece.data(), piece.size()};
    });
    const std::size_t sources = cursor.Look(bytes, there);
    const ssize_t read =
        read_(static_cast<pid_t>(table[kProcess]), here.data(), targets, there.data(), sources, 0);
    if (read <= 0) return false;
    at += static_cast<std::size_t>(read);
    cursor.Advance(static_cast<std::size_t>(read));
  }
  return true;
}

// Numbers of processes mean different ones in different containers.
bool DirectCopy::IsRightProcess(const std::uint64_t* table, int rank) {
  if (proven_[static_cast<std::size_t>(rank)]) return true;
  std::uint64_t found = 0;
  const iovec here{&found, sizeof(found)};
  const iovec there{reinterpret_cast<void*>(table[kProofAddress]), sizeof(found)};
  const ssize_t read = read_(static_cast<pid_t>(table[kProcess]), &here, 1, &there, 1, 0);
  const bool right = read == sizeof(found) && found == table[kProof];
  proven_[static_cast<std::size_t>(rank)] = right;
  return right;
}

// The next `bytes`, or less when they lie in too many pieces.
std::size_t DirectCopy::Cursor::Look(std::size_t bytes, Pieces& pieces) const {
  std::size_t count = 0;
  std::uint64_t skip = done;
  for (std::uint64_t i = 0; i < left && bytes > 0 && count < kMaxPieces; ++i, skip = 0) {
    const std::size_t part = std::min<std::size_t>(bytes, next[2 * i + 1] - skip);
    pieces[count++] = {reinterpret_cast<void*>(next[2 * i] + skip), part};
    bytes -= part;
  }
  return count;
}

void DirectCopy::Cursor::Advance(std::size_t bytes) {
  done += bytes;
  for (; left > 0 && done >= next[1]; next += 2, --left) done -= next[1];
}

}  // namespace hora

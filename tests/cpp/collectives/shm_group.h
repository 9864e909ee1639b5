// Ranks of one host as threads of one process: each has its own backend over a shared board.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <latch>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "hora/collectives/shm/shm_backend.h"

namespace hora {

using Bytes = std::vector<std::byte>;
using Random = std::mt19937_64;

// Run() may be called again: the backends, and so the numbers of the steps, live on.
class ShmGroup {
 public:
  using Body = std::function<Status(int rank, ShmBackend& backend)>;

  ShmGroup(int size, std::size_t window_bytes, Duration patience = std::chrono::seconds(60),
           std::uint64_t direct_copy_bytes = kDefaultDirectCopyBytes) {
    board_ = Board::Create({.size = size, .window_bytes = window_bytes}).value();
    for (int rank = 0; rank < size; ++rank) {
      const ShmLaneOptions options{.rank = rank,
                                   .wait = WaitPolicy::For(size, UsableCores()),
                                   .patience = patience,
                                   .direct_copy_bytes = direct_copy_bytes};
      backends_.push_back(std::make_unique<ShmBackend>(board_, options));
    }
  }

  int size() const { return static_cast<int>(backends_.size()); }
  Board& board() { return *board_; }

  std::vector<Status> Run(const Body& body) {
    std::vector<Status> statuses(backends_.size());
    std::latch all_there(size());
    {
      std::vector<std::jthread> threads;
      for (int rank = 0; rank < size(); ++rank) {
        threads.emplace_back([&, rank] {
          all_there.arrive_and_wait();
          statuses[rank] = body(rank, *backends_[rank]);
        });
      }
    }
    return statuses;
  }

  // As a job does between two operations, on all ranks.
  void Retune(const Tuning& tuning) {
    for (const auto& backend : backends_) backend->Retune(tuning);
  }

  void RunOk(const Body& body) {
    for (const Status& status : Run(body)) EXPECT_TRUE(status.ok()) << status.ToString();
  }

 private:
  std::shared_ptr<Board> board_;
  std::vector<std::unique_ptr<ShmBackend>> backends_;
};

// A tensor of bytes that lies in several pieces of memory, cut at multiples of `element` bytes.
class Pieces {
 public:
  Pieces(const Bytes& contents, int count, std::size_t element, std::uint64_t seed) {
    Random random(seed);
    std::vector<std::size_t> cuts{0, contents.size()};
    for (int i = 1; i < count; ++i)
      cuts.push_back(random() % (contents.size() / element + 1) * element);
    std::sort(cuts.begin(), cuts.end());
    for (std::size_t i = 1; i < cuts.size(); ++i) {
      memory_.emplace_back(contents.begin() + static_cast<std::ptrdiff_t>(cuts[i - 1]),
                           contents.begin() + static_cast<std::ptrdiff_t>(cuts[i]));
    }
  }

  ByteStream Stream() {
    std::vector<std::span<std::byte>> segments(memory_.begin(), memory_.end());
    return ByteStream(std::move(segments));
  }

  Bytes Contents() const {
    Bytes all;
    for (const Bytes& piece : memory_) all.insert(all.end(), piece.begin(), piece.end());
    return all;
  }

 private:
  std::vector<Bytes> memory_;
};

inline Bytes RandomBytes(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  Bytes bytes(count);
  for (auto& byte : bytes) byte = std::byte(random());
  return bytes;
}

// Several tensors, each in pieces, as the streams of a collective.
inline std::vector<ByteStream> StreamsOf(std::vector<Pieces>& tensors) {
  std::vector<ByteStream> streams;
  for (Pieces& tensor : tensors) streams.push_back(tensor.Stream());
  return streams;
}

inline std::vector<ByteStream> One(ByteStream stream) {
  std::vector<ByteStream> streams;
  streams.push_back(std::move(stream));
  return streams;
}

inline CollectiveCall AllreduceCall(const OpParams& params, int size, ByteStream in,
                                    ByteStream out) {
  CollectiveCall call;
  call.params = params;
  call.params.kind = OpKind::kAllreduce;
  call.size = size;
  call.divisor = size;
  call.bytes_per_rank = {in.size()};
  call.inputs = One(std::move(in));
  call.outputs = One(std::move(out));
  return call;
}

inline CollectiveCall BroadcastCall(int root, int size, ByteStream in, ByteStream out) {
  CollectiveCall call;
  call.params.kind = OpKind::kBroadcast;
  call.params.root_rank = root;
  call.size = size;
  call.bytes_per_rank = {out.size()};
  call.inputs = One(std::move(in));
  call.outputs = One(std::move(out));
  return call;
}

inline CollectiveCall AllgatherCall(ByteStream in, std::vector<ByteStream> out) {
  CollectiveCall call;
  call.params.kind = OpKind::kAllgather;
  call.size = static_cast<int>(out.size());
  for (const ByteStream& stream : out) call.bytes_per_rank.push_back(stream.size());
  call.inputs = One(std::move(in));
  call.outputs = std::move(out);
  return call;
}

inline CollectiveCall ReducescatterCall(const OpParams& params, std::vector<ByteStream> in,
                                        ByteStream out) {
  CollectiveCall call;
  call.params = params;
  call.params.kind = OpKind::kReducescatter;
  call.size = static_cast<int>(in.size());
  call.divisor = call.size;
  for (const ByteStream& stream : in) call.bytes_per_rank.push_back(stream.size());
  call.inputs = std::move(in);
  call.outputs = One(std::move(out));
  return call;
}

// `bytes`: what rank s sends to rank d, at s · size + d.
inline CollectiveCall AlltoallCall(std::vector<std::uint64_t> bytes, std::vector<ByteStream> in,
                                   std::vector<ByteStream> out) {
  CollectiveCall call;
  call.params.kind = OpKind::kAlltoall;
  call.size = static_cast<int>(in.size());
  call.bytes_per_rank = std::move(bytes);
  call.inputs = std::move(in);
  call.outputs = std::move(out);
  return call;
}

}  // namespace hora

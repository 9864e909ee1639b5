#include "hora/collectives/shm/shm_backend.h"

#include <atomic>
#include <thread>

#include "collectives/shm_group.h"
#include "hora/base/check.h"

namespace hora {
namespace {

using Words = std::vector<std::uint32_t>;

// For peers that never come; long against the delays of a busy machine.
constexpr Duration kPatience = std::chrono::milliseconds(150);

ByteStream Stream(Words& words) { return ByteStream({std::as_writable_bytes(std::span(words))}); }

OpParams Sum() {
  OpParams params;
  params.dtype = DType::kUInt32;
  return params;
}

std::uint32_t Value(int op, int rank, std::size_t i) {
  return static_cast<std::uint32_t>(op * 2654435761u + rank * 40503u + i * 97u);
}

Words Contribution(int op, int rank, std::size_t count) {
  Words words(count);
  for (std::size_t i = 0; i < count; ++i) words[i] = Value(op, rank, i);
  return words;
}

// One rank's side of a long sequence of collectives. What is done next comes from a seed that all
// ranks share; when it is done, from one of the rank's own.
class MixedOps {
 public:
  MixedOps(int rank, int size, std::uint64_t seed, ShmBackend& backend)
      : rank_(rank), size_(size), script_(seed), delays_(seed + 1 + rank), backend_(backend) {}

  Status Run(int ops) {
    Status status;
    for (int op = 0; op < ops && status.ok() && !testing::Test::HasFailure(); ++op) {
      if (script_() % 50 == 0) Retune();
      for (auto pauses = delays_() % 6 == 0 ? delays_() % 40 : 0; pauses > 0; --pauses) YieldCore();
      switch (script_() % 12) {
        case 0:
        case 1:
        case 2:
          status = Allreduce(op);
          break;
        case 3:
        case 4:
          status = Broadcast(op);
          break;
        case 5:
        case 6:
          status = Allgather(op);
          break;
        case 7:
        case 8:
          status = Alltoall(op);
          break;
        case 9:
        case 10:
          status = Reducescatter(op);
          break;
        default:
          status = Barrier();
      }
    }
    return status;
  }

 private:
  void Retune() {
    const std::uint64_t chunk = script_() % 300, small = script_() % 300;
    backend_.Retune({.chunk_bytes = chunk, .small_allreduce_bytes = small});
  }

  // Mostly a few words, now and then many windows.
  std::size_t Count() { return script_() % 6 == 0 ? script_() % 1500 : script_() % 40; }

  // Now and then without one of the ranks.
  Status Allreduce(int op) {
    const std::size_t count = Count();
    Words words = Contribution(op, rank_, count);
    CollectiveCall call = AllreduceCall(Sum(), size_, Stream(words), Stream(words));
    if (script_() % 5 == 0) call.absent = RankSet::Of(static_cast<int>(script_() % size_));
    Status status = backend_.Execute(call);
    return words == SumOf(op, count, call.absent) ? status : Wrong(op, "allreduce");
  }

  Words SumOf(int op, std::size_t count, const RankSet& absent) const {
    Words sum(count);
    for (int rank = 0; rank < size_; ++rank) {
      if (absent.Contains(rank)) continue;
      for (std::size_t i = 0; i < count; ++i) sum[i] += Value(op, rank, i);
    }
    return sum;
  }

  // What is for rank d has a number of operation of its own.
  static int OpFor(int op, int destination) { return op * 64 + destination; }

  Status Reducescatter(int op) {
    std::vector<Words> ins;
    std::vector<ByteStream> streams;
    for (int d = 0; d < size_; ++d) {
      ins.push_back(Contribution(OpFor(op, d), rank_, script_() % 4 == 0 ? 0 : Count()));
    }
    for (Words& in : ins) streams.push_back(Stream(in));
    Words out(ins[rank_].size());
    CollectiveCall call = ReducescatterCall(Sum(), std::move(streams), Stream(out));
    Status status = backend_.Execute(call);
    const bool right = out == SumOf(OpFor(op, rank_), out.size(), {});
    return right ? status : Wrong(op, "reducescatter");
  }

  Status Alltoall(int op) {
    std::vector<std::uint64_t> bytes(size_ * size_);
    for (auto& entry : bytes) entry = script_() % 3 == 0 ? 0 : 4 * Count();
    std::vector<Words> ins, outs;
    std::vector<ByteStream> in_streams, out_streams;
    for (int other = 0; other < size_; ++other) {
      ins.push_back(Contribution(OpFor(op, other), rank_, bytes[rank_ * size_ + other] / 4));
      outs.emplace_back(bytes[other * size_ + rank_] / 4);
    }
    for (Words& in : ins) in_streams.push_back(Stream(in));
    for (Words& out : outs) out_streams.push_back(Stream(out));
    CollectiveCall call =
        AlltoallCall(std::move(bytes), std::move(in_streams), std::move(out_streams));
    Status status = backend_.Execute(call);
    for (int source = 0; source < size_; ++source) {
      if (outs[source] != Contribution(OpFor(op, rank_), source, outs[source].size())) {
        return Wrong(op, "alltoall");
      }
    }
    return status;
  }

  Status Broadcast(int op) {
    const std::size_t count = Count();
    const int root = static_cast<int>(script_() % size_);
    Words in = Contribution(op, rank_, count), out(count);
    CollectiveCall call = BroadcastCall(root, size_, Stream(in), Stream(out));
    Status status = backend_.Execute(call);
    return out == Contribution(op, root, count) ? status : Wrong(op, "broadcast");
  }

  Status Allgather(int op) {
    std::vector<std::size_t> counts(size_);
    for (auto& count : counts) count = script_() % 3 == 0 ? 0 : Count();
    Words in = Contribution(op, rank_, counts[rank_]);
    std::vector<Words> outs;
    std::vector<ByteStream> streams;
    for (const std::size_t count : counts) outs.emplace_back(count);
    for (Words& out : outs) streams.push_back(Stream(out));
    CollectiveCall call = AllgatherCall(Stream(in), std::move(streams));
    Status status = backend_.Execute(call);
    for (int rank = 0; rank < size_; ++rank) {
      if (outs[rank] != Contribution(op, rank, counts[rank])) return Wrong(op, "allgather");
    }
    return status;
  }

  Status Barrier() {
    CollectiveCall call;
    call.params.kind = OpKind::kBarrier;
    call.size = size_;
    return backend_.Execute(call);
  }

  Status Wrong(int op, const char* kind) const {
    ADD_FAILURE() << "rank " << rank_ << ", op " << op << ": wrong result of " << kind;
    return Status::Ok();
  }

  int rank_;
  int size_;
  Random script_;
  Random delays_;
  ShmBackend& backend_;
};

class ShmStress : public testing::TestWithParam<int> {};

TEST_P(ShmStress, TenThousandMixedOpsBackToBack) {
  ShmGroup group(GetParam(), 256);
  group.RunOk([&](int rank, ShmBackend& backend) {
    return MixedOps(rank, group.size(), 2026, backend).Run(10'000);
  });
}

// As above, but from a few words on ranks read each other's memory.
TEST_P(ShmStress, MixedOpsOfWhichSomeAreDirect) {
  ShmGroup group(GetParam(), 512, std::chrono::seconds(60), /*direct_copy_bytes=*/100);
  group.RunOk([&](int rank, ShmBackend& backend) {
    return MixedOps(rank, group.size(), 2027, backend).Run(5'000);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmStress, testing::Values(2, 3, 4),
                         testing::PrintToStringParamName());

TEST(ShmBackendSupports, CpuTensorsAndWhatTheKernelsReduce) {
  ShmGroup group(1, 4096);
  group.RunOk([](int, ShmBackend& backend) {
    OpParams params;
    EXPECT_TRUE(backend.Supports(params));
    params.device.type = DeviceType::kCuda;
    EXPECT_FALSE(backend.Supports(params));
    params = {};
    params.dtype = DType::kComplex64;
    EXPECT_TRUE(backend.Supports(params));
    params.reduce_op = ReduceOp::kMax;
    EXPECT_FALSE(backend.Supports(params));
    params.kind = OpKind::kAllgather;
    EXPECT_TRUE(backend.Supports(params));
    params = {};
    params.dtype = DType::kBool;
    EXPECT_TRUE(backend.Supports(params));
    params.reduce_op = ReduceOp::kAverage;
    EXPECT_FALSE(backend.Supports(params));
    return Status::Ok();
  });
}

TEST(ShmBackendChecks, StreamsThatDoNotFitWhatWasAgreed) {
  ShmGroup group(1, 4096);
  group.RunOk([](int, ShmBackend& backend) {
    Words words(4);
    CollectiveCall call = AllreduceCall(Sum(), 1, Stream(words), Stream(words));
    call.bytes_per_rank = {20};
    EXPECT_THROW((void)backend.Execute(call), InvariantError);
    call = AllreduceCall(Sum(), 2, Stream(words), Stream(words));
    EXPECT_THROW((void)backend.Execute(call), InvariantError);
    call = BroadcastCall(1, 1, Stream(words), Stream(words));
    EXPECT_THROW((void)backend.Execute(call), InvariantError);
    call = AllreduceCall(Sum(), 1, Stream(words), Stream(words));
    call.absent = RankSet::Of(0);
    EXPECT_THROW((void)backend.Execute(call), InvariantError);
    call = AlltoallCall({12}, One(Stream(words)), One(Stream(words)));
    EXPECT_THROW((void)backend.Execute(call), InvariantError);
    call = ReducescatterCall(Sum(), One(Stream(words)), ByteStream());
    EXPECT_THROW((void)backend.Execute(call), InvariantError);
    return Status::Ok();
  });
}

TEST(ShmBackendFailure, AnAbortEndsEveryRankWithItsCause) {
  constexpr int kSize = 3;
  const Status cause(StatusCode::kPeerFailed, "rank 1 was killed by signal 9");
  ShmGroup group(kSize, 1024);
  const auto statuses = group.Run([&](int rank, ShmBackend& backend) {
    Words words(300);
    CollectiveCall call = AllreduceCall(Sum(), kSize, Stream(words), Stream(words));
    for (int i = 0; i < 20; ++i) {
      if (Status status = backend.Execute(call); !status.ok()) return status;
    }
    if (rank == 1) {
      group.board().Abort(1, cause);
      return cause;
    }
    return backend.Execute(call);  // rank 1 never comes
  });
  for (const Status& status : statuses) EXPECT_EQ(status, cause);
}

void ExpectStall(ShmGroup& group, std::string_view kind,
                 const std::function<Status(int, ShmBackend&)>& attempt) {
  constexpr int kMissing = 2;
  const auto statuses = group.Run([&](int rank, ShmBackend& backend) {
    return rank == kMissing ? Status::Ok() : attempt(rank, backend);
  });
  for (int rank = 0; rank < group.size(); ++rank) {
    if (rank == kMissing) continue;
    const Status& status = statuses[rank];
    EXPECT_EQ(status.code(), StatusCode::kStalled) << status.ToString();
    EXPECT_NE(status.message().find(kind), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("rank 2 (has brought 0 steps"), std::string::npos)
        << status.message();
    EXPECT_EQ(status.message().find("rank 0 ("), std::string::npos) << status.message();
  }
}

TEST(ShmBackendFailure, ARankThatNeverComesIsNamed) {
  constexpr std::size_t kWords = 4096;  // many windows of 256 bytes
  for (const std::size_t count : {std::size_t{1}, kWords}) {
    ShmGroup group(3, 256, kPatience);
    ExpectStall(group, "allreduce", [&](int, ShmBackend& backend) {
      Words words(count);
      CollectiveCall call = AllreduceCall(Sum(), 3, Stream(words), Stream(words));
      return backend.Execute(call);
    });
  }
  ShmGroup gathering(3, 256, kPatience);
  ExpectStall(gathering, "allgather", [&](int, ShmBackend& backend) {
    Words in(1), a(1), b(1), c(1);
    CollectiveCall call = AllgatherCall(Stream(in), {Stream(a), Stream(b), Stream(c)});
    return backend.Execute(call);
  });
  ShmGroup exchanging(3, 256, kPatience);
  ExpectStall(exchanging, "alltoall", [&](int, ShmBackend& backend) {
    std::vector<Words> memory(6, Words(1));
    CollectiveCall call = AlltoallCall(std::vector<std::uint64_t>(9, 4),
                                       {Stream(memory[0]), Stream(memory[1]), Stream(memory[2])},
                                       {Stream(memory[3]), Stream(memory[4]), Stream(memory[5])});
    return backend.Execute(call);
  });
  ShmGroup scattering(3, 256, kPatience);
  ExpectStall(scattering, "reducescatter", [&](int, ShmBackend& backend) {
    Words a(1), b(1), c(1), out(1);
    CollectiveCall call = ReducescatterCall(Sum(), {Stream(a), Stream(b), Stream(c)}, Stream(out));
    return backend.Execute(call);
  });
  ShmGroup receiving(3, 256, kPatience);
  ExpectStall(receiving, "broadcast", [&](int, ShmBackend& backend) {
    Words words(1);
    CollectiveCall call = BroadcastCall(2, 3, {}, Stream(words));
    return backend.Execute(call);
  });
}

TEST(ShmBackendFailure, RanksOfAProcessSetAreNamedAsTheJobKnowsThem) {
  auto board = Board::Create({.size = 2, .window_bytes = 256}).value();
  ShmBackend backend(board, {.rank = 0, .patience = kPatience, .names = RankNames({3, 17})});
  Words words(1);
  CollectiveCall call = AllreduceCall(Sum(), 2, Stream(words), Stream(words));
  const Status status = backend.Execute(call);
  EXPECT_EQ(status.code(), StatusCode::kStalled);
  EXPECT_NE(status.message().find("rank 17 ("), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("Rank 3 gives up"), std::string::npos) << status.message();
}

TEST(ShmBackendFailure, ARootNamesTheReaderThatLags) {
  ShmGroup group(2, 256, kPatience);
  const auto statuses = group.Run([](int rank, ShmBackend& backend) {
    Words words(4096);
    if (rank == 1) return Status::Ok();
    CollectiveCall call = BroadcastCall(0, 2, Stream(words), Stream(words));
    return backend.Execute(call);
  });
  EXPECT_EQ(statuses[0].code(), StatusCode::kStalled);
  EXPECT_NE(statuses[0].message().find("rank 1 ("), std::string::npos) << statuses[0].message();
}

TEST(ShmBackendFailure, LaterCallsReturnTheSame) {
  ShmGroup group(2, 256, kPatience);
  group.Run([](int rank, ShmBackend& backend) {
    if (rank == 1) return Status::Ok();
    Words words(1);
    CollectiveCall call = AllreduceCall(Sum(), 2, Stream(words), Stream(words));
    const Status first = backend.Execute(call);
    EXPECT_EQ(first.code(), StatusCode::kStalled);
    EXPECT_EQ(backend.Execute(call), first);
    return first;
  });
}

}  // namespace
}  // namespace hora

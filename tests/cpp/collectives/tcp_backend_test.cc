// The TCP backend: what is asked of every backend, and what only a network does to it.
#include <atomic>

#include "collectives/tcp_ranks.h"
#include "hora/collectives/tcp/algorithms.h"

namespace hora {
namespace {

constexpr std::size_t kKiB = 1024, kMiB = 1024 * kKiB;
constexpr Duration kSoon = std::chrono::seconds(2);

struct Case {
  int size = 1;
  Protection protection = Protection::kChecksum;
};

std::string NameOfCase(const testing::TestParamInfo<Case>& tested) {
  return std::to_string(tested.param.size) +
         NameOfProtection({tested.param.protection, tested.index});
}

class TcpConformance : public testing::TestWithParam<Case> {};

TEST_P(TcpConformance, DoesWhatEveryBackendDoes) {
  TcpRanks group(GetParam().size, GetParam().protection);
  ExpectConformance(group,
                    {.in_rank_order = GetParam().size < 5, .edges = {10 * kKiB, 130 * kKiB}});
}

INSTANTIATE_TEST_SUITE_P(Ranks, TcpConformance,
                         testing::Values(Case{1}, Case{2}, Case{3}, Case{4}, Case{5},
                                         Case{2, Protection::kTls}, Case{3, Protection::kTls}),
                         NameOfCase);

std::vector<float> Ones(std::size_t bytes) { return std::vector<float>(bytes / sizeof(float), 1); }

CollectiveCall InPlaceSum(std::vector<float>& values, int size) {
  const ByteStream stream({std::as_writable_bytes(std::span(values))});
  return AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), size, stream, stream);
}

TEST(TcpBackend, DoublesWhatManyRanksHave) {
  TcpRanks group(11);
  const Conformance little{.in_rank_order = true, .edges = {256}};
  ExpectAllreduces(group, little);
  ExpectAbsences(group, little);
  ExpectBroadcasts(group, little);
}

TEST(TcpBackend, MovesBulkAmongManyRanks) {
  TcpRanks group(11);
  const Conformance much{.in_rank_order = true, .edges = {20 * kKiB}};
  ExpectAllgathers(group, much);
  ExpectAlltoalls(group, much);
}

// Whole numbers, which no order of sums rounds.
template <class T>
void ExpectSumsAround(TcpRanks& group, DType dtype, ReduceOp op, T expected) {
  constexpr std::size_t kBytes = 5 * kTcpRingSliceBytes + 72;
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    std::vector<T> values(kBytes / sizeof(T), static_cast<T>(rank + 1));
    values.back() = 2;
    const ByteStream stream({std::as_writable_bytes(std::span(values))});
    CollectiveCall call = AllreduceCall(Params(dtype, op), group.size(), stream, stream);
    Status status = backend.Execute(call);
    EXPECT_EQ(values.front(), expected) << ToString(dtype) << ' ' << ToString(op);
    EXPECT_TRUE(
        std::all_of(values.begin(), values.end() - 1, [&](T value) { return value == expected; }));
    return status;
  });
}

TEST(TcpBackend, SendsSumsAround) {
  TcpRanks group(5);
  ExpectSumsAround<float>(group, DType::kFloat32, ReduceOp::kAverage, 3);
  ExpectSumsAround<float>(group, DType::kFloat32, ReduceOp::kProduct, 120);
  ExpectSumsAround<double>(group, DType::kFloat64, ReduceOp::kSum, 15);
  ExpectSumsAround<std::uint8_t>(group, DType::kUInt8, ReduceOp::kProduct, 120);
  ExpectSumsAround<std::int16_t>(group, DType::kInt16, ReduceOp::kMin, 1);
  ExpectSumsAround<std::int64_t>(group, DType::kInt64, ReduceOp::kMax, 5);
  ExpectSumsAround<std::int8_t>(group, DType::kInt8, ReduceOp::kAverage, 3);  // not in the ring
}

// The least that an allreduce can do: each byte leaves 2 (n - 1) / n times.
TEST(TcpBackend, SendsNoByteTwice) {
  constexpr std::size_t kBytes = 960 * kKiB;
  for (const int size : {2, 3, 4, 5, 6}) {
    TcpRanks group(size);
    group.RunOk([&](int, CollectiveBackend& backend) {
      auto values = Ones(kBytes);
      CollectiveCall call = InPlaceSum(values, size);
      return backend.Execute(call);
    });
    for (int rank = 0; rank < size; ++rank) {
      const auto least = static_cast<double>(2 * kBytes * (size - 1)) / size;
      EXPECT_NEAR(static_cast<double>(group.backend(rank).sent_bytes()), least, 0.001 * least);
    }
  }
}

TEST(TcpBackend, MovesABatchOfManyLittleTensors) {
  TcpRanks group(3);
  ExpectAllreduces(group, {.in_rank_order = true, .edges = {6 * kKiB}});
  group.RunOk([&](int, CollectiveBackend& backend) {
    std::vector<std::vector<float>> tensors(5000);
    std::vector<std::span<std::byte>> segments;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      tensors[i].assign(i % 90, static_cast<float>(i));
      if (i % 500 == 0) tensors[i].assign(20'000, static_cast<float>(i));
      segments.push_back(std::as_writable_bytes(std::span(tensors[i])));
    }
    const ByteStream stream(segments);
    CollectiveCall call =
        AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), group.size(), stream, stream);
    Status status = backend.Execute(call);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      for (const float value : tensors[i]) EXPECT_EQ(value, 3 * static_cast<float>(i));
    }
    return status;
  });
}

class TcpLoss : public testing::TestWithParam<Case> {};

// A peer that goes away after any number of bytes: everybody else returns soon, with its name.
TEST_P(TcpLoss, EndsEverybodySoonWhereverAPeerGoesAway) {
  const auto [size, protection] = GetParam();
  for (const std::size_t point :
       {std::size_t{0}, std::size_t{1}, std::size_t{77}, 40 * kKiB, 300 * kKiB, kMiB, 3 * kMiB}) {
    SCOPED_TRACE(point);
    std::atomic<std::size_t> gave_way{0};
    TcpRanks* whole = nullptr;
    // The last rank goes when it has sent so many bytes.
    const auto options_of = [&](int rank) {
      TcpBackendOptions options = TcpRanks::DefaultOptions(rank);
      if (rank != size - 1) return options;
      options.interruption.wanted = [&] { return whole->backend(size - 1).sent_bytes() >= point; };
      options.interruption.give_way = [&] {
        ++gave_way;
        whole->CloseSocketsOf(size - 1);
        return Status(StatusCode::kShutDown, "this rank leaves");
      };
      return options;
    };
    TcpRanks group(size, protection, options_of);
    whole = &group;
    const TimePoint start = SteadyClock::Instance().Now();
    const auto statuses = group.Run([&](int, CollectiveBackend& backend) {
      auto values = Ones(4 * kMiB);
      Status status;
      for (int i = 0; status.ok() && i < 100; ++i) {
        CollectiveCall call = InPlaceSum(values, size);
        status = backend.Execute(call);
      }
      CollectiveCall call = InPlaceSum(values, size);
      EXPECT_EQ(backend.Execute(call), status) << "a failure is final";
      return status;
    });
    EXPECT_LT(SteadyClock::Instance().Now() - start, 5 * kSoon);
    EXPECT_EQ(gave_way, 1u);
    for (int rank = 0; rank + 1 < size; ++rank) {
      const Status& status = statuses[static_cast<std::size_t>(rank)];
      EXPECT_EQ(status.code(), StatusCode::kPeerFailed) << status.ToString();
      EXPECT_NE(status.message().find("127.0.0.1"), std::string::npos) << status.message();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, TcpLoss,
                         testing::Values(Case{2}, Case{3}, Case{5}, Case{3, Protection::kTls}),
                         NameOfCase);

TEST(TcpBackend, TellsWhyTheGroupHasEndedRatherThanThatASocketHas) {
  std::atomic<bool> lost{false};
  TcpRanks group(2, Protection::kChecksum, [&](int rank) {
    TcpBackendOptions options = TcpRanks::DefaultOptions(rank);
    options.lost = [&] {
      return lost ? Status(StatusCode::kPeerFailed, "rank 1 was killed by signal 9") : Status();
    };
    return options;
  });
  group.CloseSocketsOf(1);
  std::jthread tells([&] { lost = true; });  // now or a little later
  auto values = Ones(64);
  CollectiveCall call = InPlaceSum(values, 2);
  EXPECT_EQ(group.backend(0).Execute(call).message(), "rank 1 was killed by signal 9");
  EXPECT_EQ(group.backend(0).Execute(call).message(), "rank 1 was killed by signal 9");
}

TEST(TcpBackend, EndsWhenTheGroupDoesAlthoughNoSocketDoes) {
  TcpRanks group(2, Protection::kChecksum, [&](int rank) {
    TcpBackendOptions options = TcpRanks::DefaultOptions(rank);
    options.lost = [] { return Status(StatusCode::kShutDown, "the job has ended"); };
    return options;
  });
  auto values = Ones(kMiB);
  CollectiveCall call = InPlaceSum(values, 2);
  EXPECT_EQ(group.backend(0).Execute(call).message(), "the job has ended");
}

TEST(TcpBackend, NamesWhoHasNotSentWhat) {
  TcpRanks group(3, Protection::kChecksum, [&](int rank) {
    TcpBackendOptions options = TcpRanks::DefaultOptions(rank);
    options.names = RankNames({4, 5, 6});
    options.patience = std::chrono::milliseconds(50);
    return options;
  });
  auto values = Ones(400);
  CollectiveCall call = InPlaceSum(values, 3);
  const Status status = group.backend(0).Execute(call);
  EXPECT_EQ(status.code(), StatusCode::kStalled);
  EXPECT_NE(status.message().find("rank 6 (has sent 0 of 400 bytes"), std::string::npos)
      << status.message();
}

TEST(TcpBackend, GivesWayWhileItWaits) {
  std::atomic<int> given{0};
  TcpRanks group(2, Protection::kChecksum, [&](int rank) {
    TcpBackendOptions options = TcpRanks::DefaultOptions(rank);
    if (rank == 1) return options;
    options.interruption.wanted = [&] { return given == 0; };
    options.interruption.give_way = [&] {
      ++given;
      return Status::Ok();
    };
    return options;
  });
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    if (rank == 1) {
      while (given == 0) std::this_thread::yield();
    }
    auto values = Ones(16);
    CollectiveCall call = InPlaceSum(values, 2);
    return backend.Execute(call);
  });
  EXPECT_EQ(given, 1);
}

}  // namespace
}  // namespace hora

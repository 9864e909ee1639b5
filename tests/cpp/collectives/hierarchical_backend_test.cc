// Several hosts in one process: threads over a board each, and TCP between the boards.
#include "hora/collectives/hierarchical/hierarchical_backend.h"

#include <map>
#include <numeric>

#include "collectives/tcp_ranks.h"
#include "hora/collectives/shm/shm_backend.h"

namespace hora {
namespace {

constexpr std::size_t kKiB = 1024, kMiB = 1024 * kKiB;

class HostRanks final : public BackendGroup {
 public:
  explicit HostRanks(const HostLayout& layout, std::size_t window_bytes = 16 * kKiB)
      : layout_(layout) {
    std::vector<std::vector<ChannelsByRank>> lanes;
    for (int lane = 0; lane < layout.lanes(); ++lane) {
      lanes.push_back(ConnectRanks(layout.hosts(), Protection::kChecksum));
    }
    for (int host = 0; host < layout.hosts(); ++host) {
      const int locals = layout.size_of(host);
      const auto board = Board::Create({.size = locals, .window_bytes = window_bytes}).value();
      for (int local = 0; local < locals; ++local) AddRank(board, host, local, lanes);
    }
  }

  int size() const override { return static_cast<int>(backends_.size()); }
  CollectiveBackend& backend(int rank) override {
    return *backends_[static_cast<std::size_t>(rank)];
  }

  // That have left a host since the last time it was asked.
  std::uint64_t TakeSentBytes(int host) {
    std::uint64_t sent = 0;
    for (int local = 0; local < layout_.size_of(host); ++local) {
      const auto rank = static_cast<std::size_t>(layout_.first_of(host) + local);
      if (across_[rank] != nullptr) sent += across_[rank]->sent_bytes();
    }
    return sent - std::exchange(taken_[host], sent);
  }

 private:
  void AddRank(const std::shared_ptr<Board>& board, int host, int local,
               std::vector<std::vector<ChannelsByRank>>& lanes) {
    const WaitPolicy wait = WaitPolicy::For(layout_.size(), UsableCores());
    ShmLaneOptions inside;
    inside.rank = local;
    inside.wait = wait;
    inside.patience = std::chrono::seconds(60);
    TcpBackendOptions across;
    across.rank = host;
    across.wait = wait;
    across.patience = std::chrono::seconds(60);
    std::unique_ptr<TcpBackend> lane;
    if (local < layout_.lanes()) {
      auto& channels = lanes[static_cast<std::size_t>(local)][static_cast<std::size_t>(host)];
      lane = std::make_unique<TcpBackend>(std::move(channels), std::move(across));
    }
    across_.push_back(lane.get());
    backends_.push_back(std::make_unique<HierarchicalBackend>(
        layout_, layout_.first_of(host) + local,
        std::make_unique<ShmBackend>(board, std::move(inside)), std::move(lane)));
  }

  const HostLayout layout_;
  std::vector<TcpBackend*> across_;  // by rank; null without a lane
  std::vector<std::unique_ptr<CollectiveBackend>> backends_;
  std::map<int, std::uint64_t> taken_;
};

class Layouts : public testing::TestWithParam<std::vector<int>> {
 protected:
  const HostLayout layout_{GetParam()};
};

TEST_P(Layouts, DoWhatEveryBackendDoes) {
  HostRanks group(layout_);
  const bool one_sum = layout_.hosts() == 1 || layout_.hosts() == layout_.size();
  ExpectConformance(group, {.in_rank_order = one_sum, .edges = {4 * kKiB, 40 * kKiB}});
}

TEST_P(Layouts, CutLongOperationsIntoPieces) {
  HostRanks group(layout_, 256 * kKiB);
  const Conformance conformance{.in_rank_order = false, .edges = {5 * kMiB}};
  const auto size = static_cast<std::size_t>(layout_.size());
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    std::vector<std::int64_t> values(3 * kMiB / 2 + 13);
    std::iota(values.begin(), values.end(), rank);
    const ByteStream stream({std::as_writable_bytes(std::span(values))});
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAverage}) {
      CollectiveCall call = AllreduceCall(Params(DType::kInt64, op), group.size(), stream, stream);
      if (Status status = backend.Execute(call); !status.ok()) return status;
    }
    const auto n = static_cast<std::int64_t>(size);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::int64_t sum = n * static_cast<std::int64_t>(i) + n * (n - 1) / 2;
      if (values[i] != sum) {
        ADD_FAILURE() << "element " << i << " is " << values[i] << ", not " << sum;
        break;
      }
    }
    return Status::Ok();
  });
  ExpectMixedOps(group, conformance, 12);
}

INSTANTIATE_TEST_SUITE_P(Hosts, Layouts,
                         testing::Values(std::vector{2, 2}, std::vector{2, 1}, std::vector{3, 2, 1},
                                         std::vector{4}, std::vector{1, 1, 1, 1},
                                         std::vector{1, 3}));

// What has to leave each host, and no more than a twentieth above it.
class Traffic : public testing::Test {
 protected:
  static constexpr std::size_t kBytes = 6 * kMiB;

  // `least`: bytes that must leave the host.
  void ExpectSent(int host, double least) {
    const auto sent = static_cast<double>(group_.TakeSentBytes(host));
    EXPECT_LE(sent, 1.05 * least) << "host " << host;
    EXPECT_GE(sent, 0.999 * least) << "host " << host;
  }

  const HostLayout layout_{{3, 2, 2}};
  HostRanks group_{layout_, 256 * kKiB};
};

TEST_F(Traffic, OfAnAllreduce) {
  group_.RunOk([&](int, CollectiveBackend& backend) {
    std::vector<float> values(kBytes / sizeof(float), 1);
    const ByteStream stream({std::as_writable_bytes(std::span(values))});
    CollectiveCall call =
        AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), group_.size(), stream, stream);
    Status status = backend.Execute(call);
    EXPECT_EQ(values, std::vector<float>(values.size(), 7));
    return status;
  });
  for (int host = 0; host < 3; ++host) ExpectSent(host, 2.0 * kBytes * 2 / 3);
}

TEST_F(Traffic, OfAnAllgather) {
  ExpectAllgathers(group_, {.in_rank_order = true, .edges = {100}});
  for (int host = 0; host < 3; ++host) group_.TakeSentBytes(host);
  group_.RunOk([&](int rank, CollectiveBackend& backend) {
    std::vector<Bytes> outputs(7, Bytes(kBytes / 7));
    std::vector<ByteStream> streams;
    for (Bytes& output : outputs) streams.push_back(ByteStream({std::span(output)}));
    ByteStream own = streams[static_cast<std::size_t>(rank)];
    CollectiveCall call = AllgatherCall(own, std::move(streams));
    return backend.Execute(call);
  });
  std::uint64_t sent = 0;
  for (int host = 0; host < 3; ++host) sent += group_.TakeSentBytes(host);
  EXPECT_LE(static_cast<double>(sent), 1.05 * 2 * kBytes);  // each part to two other hosts
}

TEST_F(Traffic, OfABroadcast) {
  group_.RunOk([&](int rank, CollectiveBackend& backend) {
    Bytes memory(kBytes, std::byte(rank));
    const ByteStream stream({std::span(memory)});
    CollectiveCall call = BroadcastCall(4, group_.size(), stream, stream);
    Status status = backend.Execute(call);
    EXPECT_TRUE(memory == Bytes(kBytes, std::byte{4}));
    return status;
  });
  std::uint64_t sent = 0;
  for (int host = 0; host < 3; ++host) sent += group_.TakeSentBytes(host);
  EXPECT_LE(static_cast<double>(sent), 1.05 * 2 * kBytes);
}

TEST_F(Traffic, OfAReducescatterAndAnAlltoall) {
  const std::size_t part = kBytes / 7 / 64 * 64;
  for (const bool reduces : {true, false}) {
    group_.RunOk([&](int /*rank*/, CollectiveBackend& backend) {
      std::vector<Bytes> inputs(7, Bytes(part));
      std::vector<Bytes> outputs(reduces ? 1 : 7, Bytes(part));
      std::vector<ByteStream> in;
      std::vector<ByteStream> out;
      for (Bytes& bytes : inputs) in.push_back(ByteStream({std::span(bytes)}));
      for (Bytes& bytes : outputs) out.push_back(ByteStream({std::span(bytes)}));
      CollectiveCall call =
          reduces
              ? ReducescatterCall(Params(DType::kFloat32, ReduceOp::kSum), std::move(in), out[0])
              : AlltoallCall(std::vector<std::uint64_t>(49, part), std::move(in), std::move(out));
      return backend.Execute(call);
    });
    for (int host = 0; host < 3; ++host) {
      const int here = layout_.size_of(host);
      const int pairs = (reduces ? 1 : here) * (7 - here);
      ExpectSent(host, static_cast<double>(part) * pairs);
    }
  }
}

}  // namespace
}  // namespace hora

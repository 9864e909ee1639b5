// GPU tensors over hosts: threads with a communicator of the fake NCCL inside each host, and TCP
// between the hosts.
#include "hora/collectives/hierarchical/device_hierarchy.h"

#include <atomic>

#include "collectives/nccl_ranks.h"
#include "collectives/staged_ranks.h"

namespace hora {
namespace {

// Counts what it passes on.
class Counting final : public CollectiveBackend {
 public:
  Counting(CollectiveBackend& backend, std::atomic<int>& calls)
      : backend_(backend), calls_(calls) {}
  std::string_view name() const override { return backend_.name(); }
  bool Supports(const OpParams& params) const override { return backend_.Supports(params); }
  void Retune(const Tuning& tuning) override { backend_.Retune(tuning); }
  Status Execute(CollectiveCall& call) override {
    ++calls_;
    return backend_.Execute(call);
  }

 private:
  CollectiveBackend& backend_;
  std::atomic<int>& calls_;
};

// One rank: the backends of the host's memory, and those of the device's over them.
class RankOfHost final : public CollectiveBackend {
 public:
  RankOfHost(const HostLayout& layout, int rank, std::shared_ptr<SimulatedDevice> device,
             std::unique_ptr<NcclCommunicator> inside, std::unique_ptr<CollectiveBackend> across,
             std::unique_ptr<CollectiveBackend> whole, std::atomic<int>& whole_calls)
      : device_(std::move(device)),
        pinned_(std::make_shared<PinnedPool>(device_, std::size_t{64} << 20)),
        stream_(OwnedStream::Create(device_, 0, false).value()),
        across_(std::move(across)),
        whole_(std::move(whole)),
        staged_(device_, 0, pinned_, *whole_, OptionsOf(rank)),
        counted_(staged_, whole_calls),
        hierarchy_(layout, rank, std::make_unique<NcclBackend>(device_, 0, std::move(inside)),
                   across_ == nullptr
                       ? nullptr
                       : std::make_unique<StagedBackend>(device_, 0, pinned_, *across_,
                                                         OptionsOf(layout.host_of(rank))),
                   counted_) {}

  std::string_view name() const override { return hierarchy_.name(); }
  bool Supports(const OpParams& params) const override {
    OpParams on_device = params;
    on_device.device.type = DeviceType::kCuda;
    return hierarchy_.Supports(on_device);
  }
  void Retune(const Tuning& tuning) override {
    hierarchy_.Retune(tuning);
    whole_->Retune(tuning);
    if (across_ != nullptr) across_->Retune(tuning);
  }
  Status Execute(CollectiveCall& call) override {
    DeviceTwins twins(*device_, stream_.get());
    twins.Replace(call.inputs);
    twins.Replace(call.outputs);
    call.params.device.type = DeviceType::kCuda;
    call.stream = stream_.get();
    const Status status = hierarchy_.Execute(call);
    const Status copied = twins.CopyBack();
    return status.ok() ? copied : status;
  }

 private:
  static StagingOptions OptionsOf(int rank) {
    StagingOptions options;
    options.rank = rank;
    options.piece_bytes = 16 << 10;
    options.patience = std::chrono::seconds(60);
    return options;
  }

  const std::shared_ptr<SimulatedDevice> device_;
  const std::shared_ptr<PinnedPool> pinned_;
  OwnedStream stream_;
  const std::unique_ptr<CollectiveBackend> across_;
  const std::unique_ptr<CollectiveBackend> whole_;
  StagedBackend staged_;
  Counting counted_;
  DeviceHierarchy hierarchy_;
};

class GpuHosts final : public BackendGroup {
 public:
  explicit GpuHosts(const HostLayout& layout) : size_(layout.size()) {
    std::vector<Backends> lanes;
    for (int lane = 0; lane < layout.lanes(); ++lane) lanes.push_back(TcpBackends(layout.hosts()));
    Backends whole = TcpBackends(size_);
    ranks_.resize(static_cast<std::size_t>(size_));
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([&, rank] {
        const int host = layout.host_of(rank), local = layout.local_of(rank);
        const std::string name = "host " + std::to_string(host);
        auto inside = NcclCommunicator::Create(FakeNccl(), OverStore(store_, name, local == 0, {}),
                                               {.rank = local,
                                                .size = layout.size_of(host),
                                                .names = {},
                                                .patience = kNcclPatience,
                                                .lost = {}});
        std::unique_ptr<CollectiveBackend> across;
        if (local < layout.lanes()) {
          across =
              std::move(lanes[static_cast<std::size_t>(local)][static_cast<std::size_t>(host)]);
        }
        const auto at = static_cast<std::size_t>(rank);
        ranks_[at] =
            std::make_unique<RankOfHost>(layout, rank, device_, std::move(inside).value(),
                                         std::move(across), std::move(whole[at]), whole_calls_);
      });
    }
  }
  ~GpuHosts() override {
    std::vector<std::jthread> threads;
    for (auto& rank : ranks_) threads.emplace_back([&] { rank.reset(); });
  }

  int size() const override { return size_; }
  CollectiveBackend& backend(int rank) override { return *ranks_[static_cast<std::size_t>(rank)]; }
  int TakeWholeCalls() { return whole_calls_.exchange(0); }

 private:
  const int size_;
  const std::shared_ptr<MemoryStore> store_ = std::make_shared<MemoryStore>();
  const std::shared_ptr<SimulatedDevice> device_ = std::make_shared<SimulatedDevice>();
  std::atomic<int> whole_calls_{0};
  std::vector<std::unique_ptr<RankOfHost>> ranks_;
};

class GpuLayouts : public testing::TestWithParam<std::vector<int>> {};

TEST_P(GpuLayouts, DoWhatEveryBackendDoes) {
  GpuHosts group{HostLayout(GetParam())};
  ExpectConformance(group, {.in_rank_order = false, .edges = {4096, 40000}});
}

INSTANTIATE_TEST_SUITE_P(Hosts, GpuLayouts,
                         testing::Values(std::vector{2, 2}, std::vector{2, 1}, std::vector{1, 1},
                                         std::vector{3}));

TEST(DeviceHierarchy, GoesInLayersWhereItCan) {
  GpuHosts group{HostLayout({2, 2})};
  const Conformance conformance{.in_rank_order = false, .edges = {4096}};
  ExpectAllreduces(group, conformance);
  ExpectAllgathers(group, conformance);
  ExpectBroadcasts(group, conformance);
  EXPECT_EQ(group.TakeWholeCalls(), 0);
  ExpectReducescatters(group, conformance);
  ExpectAbsences(group, conformance);
  EXPECT_GT(group.TakeWholeCalls(), 0);
}

}  // namespace
}  // namespace hora

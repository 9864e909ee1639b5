// What keeps a job over several hosts from starting once its ranks have met.
#include "hora/engine/job_network.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "hora/control/host_group.h"
#include "hora/engine/job_settings.h"
#include "net/store_job.h"

namespace hora {
namespace {

constexpr int kSize = 3;

// Nobody listens there: the port was free, and the kernel gives it out again after many others.
SocketAddress Nowhere() {
  auto closed = PeerNetwork::Open({.bind = Loopback(), .credentials = SampleCredentials()});
  EXPECT_TRUE(closed) << closed.error().ToString();
  return (*closed)->address();
}

// Three hosts of one rank each, as they are after a meeting.
class JobNetworkStart : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.start_timeout = std::chrono::seconds(60);
    for (int rank = 0; rank < kSize; ++rank) {
      auto network = PeerNetwork::Open({.rank = rank,
                                        .bind = Loopback(),
                                        .credentials = SampleCredentials(),
                                        .control = Protection::kMac,
                                        .data = Protection::kChecksum});
      ASSERT_TRUE(network) << network.error().ToString();
      addresses_.push_back((*network)->address());
      networks_.push_back(std::move(*network));
    }
  }
  Result<std::unique_ptr<JobNetwork>> Open(int rank, std::vector<SocketAddress> addresses) {
    const auto place = static_cast<std::size_t>(rank);
    networks_[place]->Begin(1, std::move(addresses));
    auto host = FormHostGroup({.tunables = TunablesOf(config_)});
    EXPECT_TRUE(host) << host.error().ToString();
    JobGroup group{.host = std::move(*host),
                   .layout = HostLayout({1, 1, 1}),
                   .host_names = {"h1", "h2", "h3"},
                   .store = store_.Connect(rank),
                   .network = networks_[place],
                   .generation = 1};
    return JobNetwork::Open(rank, config_, std::move(group));
  }

  Config config_;
  StoreJob store_;
  std::vector<std::shared_ptr<PeerNetwork>> networks_;
  std::vector<SocketAddress> addresses_;
};

TEST_F(JobNetworkStart, ConnectsAllRanks) {
  OnThreads(kSize, [&](int rank) {
    const auto network = Open(rank, addresses_);
    EXPECT_TRUE(network) << network.error().ToString();
  });
}

TEST_F(JobNetworkStart, ARankThatCannotConnectTellsThoseWhoWaitForIt) {
  std::vector<SocketAddress> wrong = addresses_;
  wrong.front() = Nowhere();
  std::array<Status, kSize> said;
  const TimePoint begun = SteadyClock::Instance().Now();
  OnThreads(kSize, [&](int rank) {
    const auto network = Open(rank, rank == 1 ? wrong : addresses_);
    if (!network) said[static_cast<std::size_t>(rank)] = network.error();
  });
  EXPECT_LT(SteadyClock::Instance().Now() - begun, std::chrono::seconds(20));
  for (const Status& status : said) {
    EXPECT_NE(status.message().find(wrong.front().ToString()), std::string::npos)
        << status.ToString();
  }
  EXPECT_NE(said[0].message().find("rank 1 on h2"), std::string::npos) << said[0].ToString();
}

}  // namespace
}  // namespace hora

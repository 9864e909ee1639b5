#include "hora/control/job_group.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <barrier>
#include <functional>
#include <mutex>
#include <stdexcept>

#include "hora/control/heartbeats.h"
#include "hora/control/tcp_link.h"
#include "net/store_job.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

JobGroupOptions OptionsOf(const StoreJob& job, int rank, const HostLayout& layout) {
  return {.rank = rank,
          .size = layout.size(),
          .local_rank = layout.local_of(rank),
          .local_size = layout.size_of(layout.host_of(rank)),
          .store = job.address().ToString(),
          .credentials = SampleCredentials(),
          .control = Protection::kMac,
          .data = Protection::kChecksum,
          .engine = "tcp",
          .tunables = {.window_bytes = 4096u * static_cast<unsigned>(rank + 1), .tree_fan_out = 2},
          .timeout = seconds(20)};
}

void Close(const JobGroup& group) {
  for (const PeerSocket& peer : group.host.peers) close(peer.fd);
}

// Forms a group and hands it to `body`, on every rank's thread.
void FormAll(const HostLayout& layout, const std::function<void(int, JobGroup&)>& body) {
  const StoreJob job;
  OnThreads(layout.size(), [&](int rank) {
    auto group = FormJobGroup(OptionsOf(job, rank, layout));
    ASSERT_TRUE(group) << group.error().ToString();
    body(rank, *group);
    Close(*group);
  });
}

TEST(JobGroup, ARankWithoutItsInterfaceEndsTheWaitOfAll) {
  const StoreJob job;
  const HostLayout layout({1, 1});
  OnThreads(2, [&](int rank) {
    JobGroupOptions options = OptionsOf(job, rank, layout);
    options.timeout = seconds(60);
    if (rank == 1) options.interfaces = {"no-such"};
    const TimePoint soon = In(seconds(10));
    const auto group = FormJobGroup(options);
    ASSERT_FALSE(group);
    EXPECT_LT(SteadyClock::Instance().Now(), soon);
    EXPECT_NE(group.error().message().find("no-such"), std::string::npos)
        << group.error().message();
    const bool is_told = group.error().message().starts_with("rank 1 on ");
    EXPECT_EQ(is_told, rank == 0) << group.error().message();
  });
}

TEST(JobGroup, RanksOfAHostShareABoardAndAllKnowTheLayout) {
  const HostLayout layout({2, 1, 3});
  std::mutex mutex;
  std::vector<std::uint64_t> generations;
  FormAll(layout, [&](int rank, JobGroup& group) {
    EXPECT_EQ(group.layout, layout);
    EXPECT_EQ(group.host_names.size(), 3u);
    EXPECT_EQ(group.host.board->size(), layout.size_of(layout.host_of(rank)));
    EXPECT_EQ(group.host.tunables.window_bytes, 4096u);  // rank 0's
    for (const PeerSocket& peer : group.host.peers) {
      EXPECT_EQ(layout.host_of(peer.rank), layout.host_of(rank));
      EXPECT_NE(peer.rank, rank);
    }
    const std::lock_guard lock(mutex);
    generations.push_back(group.generation);
  });
  EXPECT_EQ(generations, std::vector<std::uint64_t>(6, generations.front()));
}

// What every rank is told when one of them differs.
void ExpectRefusal(const std::function<void(int, JobGroupOptions&)>& change,
                   const std::string& text, StatusCode code = StatusCode::kMismatch) {
  const StoreJob job;
  const HostLayout layout({2, 2});
  OnThreads(layout.size(), [&](int rank) {
    JobGroupOptions options = OptionsOf(job, rank, layout);
    change(rank, options);
    const auto group = FormJobGroup(options);
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code(), code);
    EXPECT_NE(group.error().message().find(text), std::string::npos) << group.error().message();
  });
}

TEST(JobGroup, RanksThatAreNotNumberedHostByHostAreTold) {
  ExpectRefusal([](int rank, JobGroupOptions& options) { options.local_rank = rank / 2; },
                "numbered host by host");
}

TEST(JobGroup, EnginesThatDifferAreTold) {
  ExpectRefusal(
      [](int rank, JobGroupOptions& options) { options.engine = rank == 3 ? "gloo" : "tcp"; },
      "rank 3");
}

TEST(JobGroup, ProtectionsThatDifferAreTold) {
  ExpectRefusal(
      [](int rank, JobGroupOptions& options) {
        if (rank == 3) options.data = Protection::kTls;
      },
      "HORA_DATA_PLANE=tls, rank 0");
}

TEST(JobGroup, AProtectionThatALibraryCannotKeepIsRefusedByAll) {
  ExpectRefusal(
      [](int rank, JobGroupOptions& options) {
        options.engine = "flat-gloo";
        options.data = rank == 3 ? std::optional(Protection::kTls) : std::nullopt;
      },
      "cannot be kept by gloo, which neither encrypts nor authenticates",
      StatusCode::kInvalidArgument);
}

// Nobody asked for it, or nothing leaves the host.
TEST(JobGroup, LibrariesNeedNoProtectionThatNobodyMisses) {
  for (const auto& layout : {HostLayout({2, 1}), HostLayout({3})}) {
    const StoreJob job;
    OnThreads(layout.size(), [&](int rank) {
      JobGroupOptions options = OptionsOf(job, rank, layout);
      options.engine = "mpi";
      if (layout.hosts() > 1) options.data.reset();
      const auto group = FormJobGroup(options);
      ASSERT_TRUE(group) << group.error().ToString();
      Close(*group);
    });
  }
}

TEST(JobGroup, WhoIsMissingIsNamed) {
  const StoreJob job;
  const HostLayout layout({2, 1});
  OnThreads(2, [&](int rank) {
    JobGroupOptions options = OptionsOf(job, rank, layout);
    options.timeout = milliseconds(300);
    const auto group = FormJobGroup(options);
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code(), StatusCode::kTimeout);
    EXPECT_NE(group.error().message().find("missing 2"), std::string::npos)
        << group.error().message();
  });
}

Channel Connect(JobGroup& group, int rank, Purpose::Kind kind) {
  auto channel = group.network->Connect(1 - rank, {.kind = kind}, In(seconds(20)));
  if (!channel) throw std::runtime_error(channel.error().ToString());
  return std::move(*channel);
}

// The first ranks of two hosts, with a heartbeat between them.
class HeartbeatsOfTwo {
 public:
  HeartbeatsOfTwo(JobGroup& group, int rank, Duration silence, std::barrier<>& connected)
      : board(group.host.board), network(group.network) {
    auto channel = Connect(group, rank, Purpose::Kind::kHeartbeat);
    connected.arrive_and_wait();  // who ends before is nobody's neighbour
    std::vector<Heartbeats::Neighbour> neighbours;
    neighbours.push_back({1 - rank, "the other", std::move(channel)});
    beats = std::make_unique<Heartbeats>(rank, silence, std::move(neighbours), board, *network);
  }

  Status AwaitAbort() const {
    return board->Await(0, {}, In(seconds(20)), [] { return false; });
  }

  std::shared_ptr<Board> board;
  std::shared_ptr<PeerNetwork> network;
  std::unique_ptr<Heartbeats> beats;
};

TEST(Heartbeats, AnAbortTravelsWithItsCauseAndOrigin) {
  std::barrier<> connected(2);
  FormAll(HostLayout({1, 1}), [&](int rank, JobGroup& group) {
    HeartbeatsOfTwo two(group, rank, seconds(60), connected);
    if (rank == 1) {
      two.board->Abort(7, Status(StatusCode::kStalled, "rank 7 sleeps"));
      two.beats->Tell();
    }
    EXPECT_EQ(two.AwaitAbort(), Status(StatusCode::kStalled, "rank 7 sleeps"));
    EXPECT_EQ(two.board->abort_origin(), 7);
  });
}

TEST(Heartbeats, AnEndWithoutAGoodbyeIsADeath) {
  std::barrier<> connected(2);
  FormAll(HostLayout({1, 1}), [&](int rank, JobGroup& group) {
    HeartbeatsOfTwo two(group, rank, seconds(60), connected);
    if (rank == 1) return;
    const Status status = two.AwaitAbort();
    EXPECT_EQ(status.code(), StatusCode::kPeerFailed);
    EXPECT_NE(status.message().find("rank 1, which speaks for host the other, is gone"),
              std::string::npos)
        << status.message();
  });
}

TEST(Heartbeats, AGoodbyeIsNone) {
  std::barrier<> connected(2);
  FormAll(HostLayout({1, 1}), [&](int rank, JobGroup& group) {
    HeartbeatsOfTwo two(group, rank, milliseconds(400), connected);
    two.beats->SayGoodbye();
    if (rank == 1) return;
    const Status status = two.board->Await(0, {}, In(milliseconds(1200)), [] { return false; });
    EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.ToString();
  });
}

TEST(Heartbeats, SilenceIsADeath) {
  std::barrier<> connected(2);
  FormAll(HostLayout({1, 1}), [&](int rank, JobGroup& group) {
    if (rank == 1) {  // connected, but never says anything
      Channel channel = Connect(group, rank, Purpose::Kind::kHeartbeat);
      connected.arrive_and_wait();
      std::byte word[520];
      while (channel.Read(word)) YieldCore();
      return;
    }
    const HeartbeatsOfTwo two(group, rank, milliseconds(400), connected);
    const Status status = two.AwaitAbort();
    EXPECT_NE(status.message().find("has been silent for"), std::string::npos) << status.message();
  });
}

TEST(TcpLink, FramesArriveInOrderAndWakeWhoSleeps) {
  FormAll(HostLayout({1, 1}), [](int rank, JobGroup& group) {
    Channel channel = Connect(group, rank, Purpose::Kind::kControl);
    Doorbell& bell = group.host.board->flags(0).doorbell;
    TcpLink link(std::move(channel), 1 - rank, group.network, [&bell] { bell.Wake(); });
    constexpr std::size_t kFrames = 300;
    if (rank == 1) {
      for (std::size_t i = 0; i < kFrames; ++i) {
        const std::vector<std::byte> frame(i * i, static_cast<std::byte>(i));
        ASSERT_TRUE(link.Send(frame, true).ok());
        while (!link.Flush()) YieldCore();
      }
    }
    std::vector<std::byte> frame;
    for (std::size_t i = 0; rank == 0 && i < kFrames; ++i) {
      while (!link.Receive(frame)) {
        ASSERT_TRUE(link.status().ok());
        link.Arm();
        bell.SleepUnless([&] { return link.NeedsAttention(); }, Sleep::kWaiting, In(seconds(20)));
        ASSERT_TRUE(link.NeedsAttention());
      }
      ASSERT_EQ(frame, std::vector<std::byte>(i * i, static_cast<std::byte>(i)));
    }
  });
}

}  // namespace
}  // namespace hora

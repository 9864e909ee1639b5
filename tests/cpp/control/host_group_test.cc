#include "hora/control/host_group.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <future>
#include <iterator>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "control/forked_child.h"
#include "control/meeting_point.h"
#include "hora/base/format.h"
#include "hora/control/local_group.h"
#include "hora/control/rendezvous_message.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Hello HelloOf(const HostGroupOptions& options) {
  Hello hello;
  std::copy_n(options.key.bytes().begin(), hello.key.size(), hello.key.begin());
  hello.rank = options.rank;
  hello.size = options.size;
  hello.pid = 4242;
  return hello;
}

// The next thing that rank 0 says; a hang-up gives a refusal without text.
Notice NextNotice(int fd) {
  Notice notice;
  MessageReader reader;
  const auto into = std::as_writable_bytes(std::span(&notice, 1));
  for (;;) {
    const Progress progress = reader.Read(fd, into);
    if (progress == Progress::kComplete) return notice;
    if (progress == Progress::kClosed) return {};
    if (!PollUntil(fd, 1, SteadyClock::Instance().Now() + seconds(20))) return {};
  }
}

void ExpectGroup(const std::vector<Result<HostGroup>>& results) {
  const int size = static_cast<int>(results.size());
  for (const auto& result : results) ASSERT_TRUE(result) << result.error().ToString();
  for (int rank = 0; rank < size; ++rank) {
    const HostGroup& group = *results[rank];
    EXPECT_EQ(group.board->size(), size);
    EXPECT_EQ(group.board->generation(), results[0]->board->generation());
    EXPECT_EQ(group.tunables, results[0]->tunables);
    group.board->flags(rank).lane(Lane::kBulk).copied = static_cast<std::uint64_t>(100 + rank);
    ASSERT_EQ(group.peers.size(), rank == 0 ? results.size() - 1 : 1u);
    for (std::size_t i = 0; i < group.peers.size(); ++i) {
      EXPECT_EQ(group.peers[i].rank, rank == 0 ? static_cast<int>(i) + 1 : 0);
      EXPECT_EQ(group.peers[i].pid, getpid());
    }
  }
  for (int rank = 0; rank < size; ++rank) {
    EXPECT_EQ(results[0]->board->flags(rank).lane(Lane::kBulk).copied,
              static_cast<std::uint64_t>(100 + rank));
    ClosePeers(*results[rank]);
  }
}

void ExpectError(const Result<HostGroup>& result, StatusCode code, const std::string& text) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), code) << result.error().ToString();
  EXPECT_NE(result.error().message().find(text), std::string::npos) << result.error().message();
}

TEST(HostGroup, FormsForEverySize) {
  for (const int size : {2, 3, 8}) {
    const auto results = FormTogether(MeetingPoint(size));
    ExpectGroup(results);
    EXPECT_EQ(results[0]->tunables.tuning.fusion_threshold_bytes, 1000u) << "rank 0's";
  }
}

TEST(HostGroup, OneRankNeedsNoSocket) {
  const auto group = FormHostGroup({.tunables = {.window_bytes = 4096}});
  ASSERT_TRUE(group);
  EXPECT_EQ(group->board->size(), 1);
  EXPECT_TRUE(group->peers.empty());
}

TEST(HostGroup, RefusesOptionsWithoutSense) {
  const MeetingPoint point(2);
  auto options = point.OptionsOf(0);
  options.rank = 2;
  ExpectError(FormHostGroup(options), StatusCode::kInvalidArgument, "rank 2 of 2");
  options = point.OptionsOf(0);
  options.listen_fd = -1;
  ExpectError(FormHostGroup(options), StatusCode::kInvalidArgument, "not the listening socket");
  options = point.OptionsOf(1);
  options.rendezvous = std::string(200, 'x');
  ExpectError(FormHostGroup(options), StatusCode::kInvalidArgument,
              "200 bytes; allowed are 1 to 107");
}

TEST(HostGroup, WaitsForRanksThatComeLate) {
  MeetingPoint point(3);
  point.Close();  // nobody is bound to the name when rank 1 begins
  auto early = std::async([options = point.OptionsOf(1)] { return FormHostGroup(options); });
  EXPECT_EQ(early.wait_for(milliseconds(30)), std::future_status::timeout);
  point.Listen();
  auto root = std::async([options = point.OptionsOf(0)] { return FormHostGroup(options); });
  EXPECT_EQ(root.wait_for(milliseconds(30)), std::future_status::timeout);
  std::vector<Result<HostGroup>> results = FormTogether({point.OptionsOf(2)});
  results.insert(results.begin(), early.get());
  results.insert(results.begin(), root.get());
  ExpectGroup(results);
}

TEST(HostGroup, GivesUpSoonWhereRankZeroHasEnded) {
  MeetingPoint point(2, seconds(60));
  point.Close();
  const TimePoint begun = SteadyClock::Instance().Now();
  ExpectError(FormHostGroup(point.OptionsOf(1)), StatusCode::kPeerFailed, "rank 0 has ended");
  EXPECT_LT(SteadyClock::Instance().Now() - begun, seconds(30));
}

TEST(HostGroup, NamesTheMissing) {
  const MeetingPoint point(5, seconds(1));
  const UniqueFd unready = point.Connect();
  ASSERT_TRUE(SendMessage(unready.get(), HelloOf(point.OptionsOf(1))).ok());
  auto patient = point.OptionsOf(3);
  patient.timeout = seconds(20);
  const auto results = FormTogether({point.OptionsOf(0), patient});
  for (const auto& result : results) {
    ExpectError(result, StatusCode::kTimeout,
                "within 1 s: have 0-1, 3; missing 2, 4; joined but not ready 1");
  }
}

TEST(HostGroup, SaysThatRankZeroDoesNotAnswer) {
  MeetingPoint point(2, milliseconds(50));
  const auto bound_only = FormHostGroup(point.OptionsOf(1));
  ExpectError(bound_only, StatusCode::kTimeout, "rank 0 did not answer at 'hora-test-");
  point.Close();
  const auto unbound = FormHostGroup(point.OptionsOf(1));
  ExpectError(unbound, StatusCode::kTimeout, "within 0.05 s: is it running?");
}

TEST(HostGroup, AnotherSizeFailsEverybodyAtOnce) {
  const MeetingPoint point(3);
  auto root = std::async([options = point.OptionsOf(0)] { return FormHostGroup(options); });
  const UniqueFd member = point.Connect();
  ASSERT_TRUE(SendMessage(member.get(), HelloOf(point.OptionsOf(1))).ok());
  ASSERT_EQ(NextNotice(member.get()).kind, NoticeKind::kWelcome);
  auto other = point.OptionsOf(2);
  other.size = 4;
  const auto text =
      fmt::format("rank 2 (pid {0}) was started for 4 ranks, rank 0 (pid {0}) for 3", getpid());
  ExpectError(FormHostGroup(other), StatusCode::kInvalidArgument, text);
  ExpectError(root.get(), StatusCode::kInvalidArgument, text);
  EXPECT_EQ(NextNotice(member.get()).cause(), Status(StatusCode::kInvalidArgument, text));
}

TEST(HostGroup, ClaimsThatContradictAreNamed) {
  const struct {
    std::int32_t rank;
    std::uint32_t version;
    std::string text;
  } cases[] = {{-5, kRendezvousVersion, "claims rank -5; allowed are 1 to 2"},
               {3, kRendezvousVersion, "claims rank 3; allowed are 1 to 2"},
               {0, kRendezvousVersion, "rank 0 is claimed by two processes: pid "},
               {1, 99, "speaks version 99 of the rendezvous, rank 0"}};
  for (const auto& claim : cases) {
    const MeetingPoint point(3);
    const UniqueFd fd = point.Connect();
    Hello hello = HelloOf(point.OptionsOf(1));
    hello.rank = claim.rank;
    hello.version = claim.version;
    ASSERT_TRUE(SendMessage(fd.get(), hello).ok());
    ExpectError(FormHostGroup(point.OptionsOf(0)), StatusCode::kInvalidArgument, claim.text);
    const Notice notice = NextNotice(fd.get());
    EXPECT_NE(notice.cause().message().find(claim.text), std::string::npos) << claim.text;
  }
}

TEST(HostGroup, TwoLivingClaimantsOfOneRankAreRefused) {
  const MeetingPoint point(3);
  const auto results = FormTogether({point.OptionsOf(0), point.OptionsOf(1), point.OptionsOf(1)});
  for (const auto& result : results) {
    ExpectError(result, StatusCode::kInvalidArgument,
                fmt::format("rank 1 is claimed by two processes: pid {0} and pid {0}", getpid()));
  }
}

TEST(HostGroup, AClaimantThatHungUpIsReplaced) {
  const MeetingPoint point(2);
  {
    const UniqueFd dead_before_it_was_met = point.Connect();
    ASSERT_TRUE(SendMessage(dead_before_it_was_met.get(), HelloOf(point.OptionsOf(1))).ok());
  }
  auto root = std::async([options = point.OptionsOf(0)] { return FormHostGroup(options); });
  {
    const UniqueFd dies_when_ready = point.Connect();
    ASSERT_TRUE(SendMessage(dies_when_ready.get(), HelloOf(point.OptionsOf(1))).ok());
    ASSERT_EQ(NextNotice(dies_when_ready.get()).kind, NoticeKind::kWelcome);
  }
  std::vector<Result<HostGroup>> results = FormTogether({point.OptionsOf(1)});
  results.insert(results.begin(), root.get());
  ExpectGroup(results);
}

TEST(HostGroup, StrangersNeitherJoinNorDelay) {
  const MeetingPoint point(2);
  const UniqueFd silent = point.Connect();
  const UniqueFd web = point.Connect();
  const std::string request =
      "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\n\r\n";
  ASSERT_GT(send(web.get(), request.data(), request.size(), 0), 0);
  const UniqueFd wrong_key = point.Connect();
  Hello hello = HelloOf(point.OptionsOf(1));
  hello.key[31] ^= std::byte{1};
  ASSERT_TRUE(SendMessage(wrong_key.get(), hello).ok());
  const auto start = SteadyClock::Instance().Now();
  ExpectGroup(FormTogether(point));
  EXPECT_LT(SteadyClock::Instance().Now() - start, seconds(2))
      << "nobody waited for the silent one";
  for (const UniqueFd* stranger : {&silent, &web, &wrong_key}) {
    EXPECT_EQ(NextNotice(stranger->get()).code, 0u) << "they were told nothing";
  }
}

TEST(HostGroup, AnotherJobsKeyIsAnErrorForWhoeverShowsIt) {
  const MeetingPoint point(2);
  auto root = std::async([options = point.OptionsOf(0)] { return FormHostGroup(options); });
  auto other_job = point.OptionsOf(1);
  other_job.key = JobKey(KeyBytes{std::byte{1}});
  ExpectError(FormHostGroup(other_job), StatusCode::kPeerFailed, "keys of different jobs");
  std::vector<Result<HostGroup>> results = FormTogether({point.OptionsOf(1)});
  results.insert(results.begin(), root.get());
  ExpectGroup(results);
}

TEST(HostGroup, AMessengerEndsTheWait) {
  const MeetingPoint point(2);
  auto waiting = std::async([options = point.OptionsOf(0)] { return FormHostGroup(options); });
  const HostGroupOptions known = point.OptionsOf(1);
  const Status problem(StatusCode::kInvalidArgument, "SLURM_PROCID='x' is no number");
  const TimePoint deadline = SteadyClock::Instance().Now() + seconds(20);
  const Status told = TellHostGroup(known.rendezvous, known.key, problem, deadline);
  EXPECT_TRUE(told.ok()) << told.ToString();
  ExpectError(waiting.get(), StatusCode::kInvalidArgument, "SLURM_PROCID='x' is no number");
}

TEST(HostGroup, AMessengerWithoutTheKeyIsNotHeard) {
  const MeetingPoint point(2);
  const HostGroupOptions known = point.OptionsOf(0);
  const Status problem(StatusCode::kInvalidArgument, "nothing");
  const TimePoint deadline = SteadyClock::Instance().Now() + seconds(20);
  EXPECT_TRUE(TellHostGroup(known.rendezvous, JobKey(), problem, deadline).ok());
  ExpectGroup(FormTogether(point));
}

// Abstract sockets have no file permissions: whoever knows the name can connect, or bind it first.
TEST(HostGroup, OtherUsersAreTurnedAway) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can play another user";
  constexpr uid_t kNobody = 65534;
  MeetingPoint point(2);
  const Signal in_queue;
  ForkedChild intruder([&] {
    if (setuid(kNobody) != 0) return 1;
    const UniqueFd fd = point.Connect();
    const bool sent = SendMessage(fd.get(), HelloOf(point.OptionsOf(1))).ok();
    in_queue.Give();
    return sent && NextNotice(fd.get()).code == 0 ? 0 : 2;
  });
  in_queue.Take();
  ExpectGroup(FormTogether(point));
  EXPECT_EQ(intruder.Join(), 0) << "although it knew the key";

  point.Close();
  const Signal listens;
  const Signal done;
  ForkedChild squatter([&] {
    if (setuid(kNobody) != 0) return 1;
    point.Listen();
    listens.Give();
    done.Take();
    return 0;
  });
  listens.Take();
  ExpectError(FormHostGroup(point.OptionsOf(1)), StatusCode::kPeerFailed, "another user");
  done.Give();
  EXPECT_EQ(squatter.Join(), 0);
}

// One byte at a time would keep a connection alive for ever; more of them than there is room for
// would keep the ranks out.
TEST(HostGroup, SlowStrangersLoseTheirPlace) {
  const MeetingPoint point(2);
  std::vector<UniqueFd> slow;
  for (int i = 0; i < 18; ++i) {
    slow.push_back(point.Connect());
    ASSERT_EQ(send(slow.back().get(), "o", 1, 0), 1);
  }
  auto root = std::async([options = point.OptionsOf(0)] { return FormHostGroup(options); });
  std::vector<Result<HostGroup>> results = FormTogether({point.OptionsOf(1)});
  results.insert(results.begin(), root.get());
  ExpectGroup(results);
}

TEST(HostGroup, AMemberThatCannotAttachFailsEverybodyAtOnce) {
  const MeetingPoint point(2);
  auto root = std::async([options = point.OptionsOf(0)] { return FormHostGroup(options); });
  const UniqueFd fd = point.Connect();
  ASSERT_TRUE(SendMessage(fd.get(), HelloOf(point.OptionsOf(1))).ok());
  ASSERT_EQ(NextNotice(fd.get()).kind, NoticeKind::kWelcome);
  ASSERT_TRUE(
      SendMessage(fd.get(), Notice::Refusal(Status(StatusCode::kResource, "no room"))).ok());
  ExpectError(root.get(), StatusCode::kResource,
              fmt::format("rank 1 (pid {}) cannot join: no room", getpid()));
}

TEST(HostGroup, RetriesAfterAFailure) {
  const MeetingPoint point(3, milliseconds(100));
  const auto failed = FormTogether({point.OptionsOf(0), point.OptionsOf(1)});
  EXPECT_FALSE(failed[0]);
  EXPECT_FALSE(failed[1]);
  std::vector<HostGroupOptions> options;
  for (int rank = 0; rank < 3; ++rank) {
    options.push_back(point.OptionsOf(rank));
    options.back().timeout = seconds(20);
  }
  ExpectGroup(FormTogether(options));
}

TEST(HostGroup, AHundredGenerationsLeaveNothingBehind) {
  const MeetingPoint point(3);
  const auto open = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  const auto before = open();
  std::uint64_t last = 0;
  for (int i = 0; i < 100; ++i) {
    const auto results = FormTogether(point);
    ExpectGroup(results);
    ASSERT_GT(results[0]->board->generation(), last);
    last = results[0]->board->generation();
  }
  EXPECT_EQ(open(), before);
}

TEST(HostGroup, NoDescriptorLeftIsAnError) {
  const MeetingPoint point(2);
  ForkedChild crowded([&] {
    const UniqueFd waiting = point.Connect();
    // UBSan opens a pipe when it first meets a class with virtual functions, which later it cannot.
    if (!FormHostGroup({.rank = 0, .size = 1, .tunables = point.OptionsOf(0).tunables})) return 4;
    [[maybe_unused]] const TimePoint met = SteadyClock::Instance().Now();
    const rlimit limit{.rlim_cur = 64, .rlim_max = 64};
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return 1;
    int lowest = dup(0);
    close(lowest);  // the board's; the accepted connection has none
    for (int fd = lowest + 1; fd < 64; ++fd) dup2(0, fd == point.OptionsOf(0).listen_fd ? 0 : fd);
    const auto group = FormHostGroup(point.OptionsOf(0));
    if (group || group.error().code() != StatusCode::kResource) return 2;
    return group.error().message().find("ulimit -n") != std::string::npos ? 0 : 3;
  });
  EXPECT_EQ(crowded.Join(), 0);
}

TEST(LocalGroup, SharesOneBoard) {
  const Tunables tunables{.window_bytes = 4096, .tree_fan_out = 3};
  const std::vector<HostGroup> groups = MakeLocalGroup(4, tunables);
  ASSERT_EQ(groups.size(), 4u);
  for (const HostGroup& group : groups) {
    EXPECT_EQ(group.board, groups[0].board);
    EXPECT_EQ(group.board->size(), 4);
    EXPECT_EQ(group.tunables, tunables);
    EXPECT_TRUE(group.peers.empty());
  }
  EXPECT_THROW(MakeLocalGroup(0, tunables), InvariantError);
}

}  // namespace
}  // namespace hora

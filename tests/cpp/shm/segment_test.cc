#include "hora/shm/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <iterator>
#include <utility>

#include "gtest/gtest.h"

namespace hora {
namespace {

auto OpenDescriptors() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

TEST(Segment, IsSharedBetweenItsMappings) {
  Result<Segment> created = Segment::Create(10'000);
  ASSERT_TRUE(created) << created.error().ToString();
  EXPECT_EQ(created->bytes().size(), 10'000u);
  EXPECT_EQ(created->bytes()[9'999], std::byte{0});
  Result<Segment> attached = Segment::Attach(dup(created->fd()));
  ASSERT_TRUE(attached) << attached.error().ToString();
  ASSERT_EQ(attached->bytes().size(), 10'000u);
  created->bytes()[9'999] = std::byte{7};
  EXPECT_EQ(attached->bytes()[9'999], std::byte{7});
}

TEST(Segment, IsClosedOnExecAndMayGrowButNotShrink) {
  Result<Segment> segment = Segment::Create(4096);
  ASSERT_TRUE(segment);
  EXPECT_NE(fcntl(segment->fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(ftruncate(segment->fd(), 0), 0);
  EXPECT_EQ(ftruncate(segment->fd(), 8192), 0);
}

off_t BlocksOf(int fd) {
  struct stat about {};
  EXPECT_EQ(fstat(fd, &about), 0);
  return about.st_blocks;
}

TEST(Segment, PartsAreSharedReservedAndGivenBack) {
  Result<Segment> whole = Segment::Create(4096);
  ASSERT_TRUE(whole);
  const std::size_t offset = 1u << 20;
  EXPECT_EQ(Segment::AttachPart(whole->fd(), offset, 8192).error().code(), StatusCode::kInternal)
      << "nobody has made it yet";
  const off_t before = BlocksOf(whole->fd());
  Result<Segment> made = Segment::CreatePart(whole->fd(), offset, 8192);
  Result<Segment> seen = Segment::AttachPart(whole->fd(), offset, 8192);
  ASSERT_TRUE(made && seen);
  EXPECT_EQ(made->fd(), -1);
  EXPECT_GE(BlocksOf(whole->fd()), before + 8192 / 512);
  made->bytes()[8191] = std::byte{7};
  EXPECT_EQ(seen->bytes()[8191], std::byte{7});
  EXPECT_EQ(whole->bytes()[0], std::byte{0});

  Segment::FreePart(whole->fd(), offset, 8192);
  EXPECT_EQ(BlocksOf(whole->fd()), before);
  const Result<Segment> again = Segment::CreatePart(whole->fd(), offset, 8192);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->bytes()[8191], std::byte{0});
}

TEST(Segment, APartThatCannotBeMadeLeavesNothingBehind) {
  Result<Segment> whole = Segment::Create(4096);
  ASSERT_TRUE(whole);
  const off_t before = BlocksOf(whole->fd());
  const auto refused = Segment::CreatePart(whole->fd(), 4096, std::size_t{1} << 46);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), StatusCode::kResource);
  EXPECT_EQ(BlocksOf(whole->fd()), before);
  EXPECT_EQ(Segment::CreatePart(whole->fd(), 4096, 0).error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Segment::CreatePart(whole->fd(), ~std::size_t{0} - 4095, 4096).error().code(),
            StatusCode::kInvalidArgument);
}

TEST(Segment, ReservesItsMemoryAtOnce) {
  Result<Segment> segment = Segment::Create(1u << 20);
  ASSERT_TRUE(segment);
  struct stat about {};
  ASSERT_EQ(fstat(segment->fd(), &about), 0);
  EXPECT_GE(about.st_blocks * 512, 1 << 20);
}

TEST(Segment, MoreThanThereIsSaysWhatIsNeededAndAvailable) {
  const Result<Segment> segment = Segment::Create(std::size_t{1} << 46);
  ASSERT_FALSE(segment);
  EXPECT_EQ(segment.error().code(), StatusCode::kResource);
  EXPECT_NE(segment.error().message().find("need 67108864.0 MiB, have "), std::string::npos)
      << segment.error().message();
  EXPECT_EQ(Segment::Create(0).error().code(), StatusCode::kInvalidArgument);
}

// Without the check the kernel would send SIGXFSZ.
TEST(Segment, RespectsTheFileSizeLimit) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit limit{.rlim_cur = 4096, .rlim_max = 4096};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(1);
    const Result<Segment> segment = Segment::Create(8192);
    _exit(!segment && segment.error().code() == StatusCode::kResource ? 0 : 2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Segment, RefusesWhatCouldShrinkUnderneath) {
  const int unsealed = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(unsealed, 4096), 0);
  EXPECT_EQ(Segment::Attach(unsealed).error().code(), StatusCode::kInternal);
  EXPECT_EQ(fcntl(unsealed, F_GETFD), -1) << "ownership was taken";
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_EQ(Segment::Attach(ends[0]).error().code(), StatusCode::kInternal);
  close(ends[1]);
  EXPECT_EQ(Segment::Attach(-1).error().code(), StatusCode::kInternal);
}

TEST(Segment, LeavesNoDescriptorBehind) {
  const auto before = OpenDescriptors();
  {
    Result<Segment> first = Segment::Create(4096);
    Result<Segment> second = Segment::Create(4096);
    ASSERT_TRUE(first && second);
    Segment moved = std::move(*first);
    moved = std::move(*second);
    EXPECT_EQ(moved.bytes().size(), 4096u);
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

}  // namespace
}  // namespace hora

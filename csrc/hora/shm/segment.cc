#include "hora/shm/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

// A signal undoes the fallocate(2) that it interrupts; pieces keep the progress made before it.
constexpr std::size_t kReservePiece = 16u << 20;
// Larger mappings are left to be touched on use: mapping them takes longer than it saves.
constexpr std::size_t kPopulateLimit = 64u << 20;

constexpr std::size_t kHugePage = 2u << 20;

constexpr auto kLargestOffset = static_cast<std::size_t>(std::numeric_limits<off_t>::max());

constexpr double kMiB = 1024.0 * 1024.0;

// The number after `label` in a file of lines "label number …".
std::size_t FieldOf(const char* path, std::string_view label) {
  std::ifstream file(path);
  for (std::string word, rest; file >> word; std::getline(file, rest)) {
    std::size_t number = 0;
    if (word == label && file >> number) return number;
  }
  return 0;
}

// What this process's control group may still take; page cache counts as used there, but gives way.
std::size_t AvailableInGroup() {
  std::size_t limit = 0;
  std::size_t used = 0;
  if (!(std::ifstream("/sys/fs/cgroup/memory.max") >> limit)) return kNoLimit;  // also for "max"
  if (!(std::ifstream("/sys/fs/cgroup/memory.current") >> used)) return kNoLimit;
  const char* const stat = "/sys/fs/cgroup/memory.stat";
  used -= std::min(used, FieldOf(stat, "active_file") + FieldOf(stat, "inactive_file"));
  return limit - std::min(limit, used);
}

// Beyond this the kernel would answer a reservation by killing a process, not by an error.
std::size_t AvailableMemory() {
  const std::size_t free_kib = FieldOf("/proc/meminfo", "MemAvailable:");
  return std::min(free_kib != 0 ? free_kib << 10 : kNoLimit, AvailableInGroup());
}

// Beyond this a reservation ends the process by SIGXFSZ.
std::size_t LargestFile() {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kNoLimit;
  return limit.rlim_cur;
}

Status Allocate(int fd, std::size_t offset, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t piece = std::min(kReservePiece, bytes - done);
    const int error =
        posix_fallocate(fd, static_cast<off_t>(offset + done), static_cast<off_t>(piece));
    if (error == EINTR) continue;
    if (error != 0) {
      return Error(
          StatusCode::kResource,
          "shared memory: need {:.1f} MiB, got {:.1f} MiB: {}; free memory or ask for less "
          "(HORA_WINDOW_BYTES for the windows)",
          static_cast<double>(bytes) / kMiB, static_cast<double>(done) / kMiB,
          std::strerror(error));
    }
    done += piece;
  }
  return Status::Ok();
}

Status Reserve(int fd, std::size_t offset, std::size_t bytes) {
  if (Status status = Segment::CheckRoom(offset, bytes); !status.ok()) return status;
  return Allocate(fd, offset, bytes);
}

// Addresses that are free and lie to huge pages as `offset` does; should another thread take them,
// small pages will do.
void* PlaceForHugePages(std::size_t offset, std::size_t bytes) {
  const std::size_t room = bytes + kHugePage;
  void* const found = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  munmap(found, room);
  const auto address = reinterpret_cast<std::uintptr_t>(found);
  return static_cast<std::byte*>(found) + (offset - address) % kHugePage;
}

Result<std::span<std::byte>> MapAt(void* place, int fd, std::size_t offset, std::size_t bytes) {
  void* const start =
      mmap(place, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (start == MAP_FAILED) {
    return Fail(Error(StatusCode::kResource, "shared memory: cannot map {} bytes: {}", bytes,
                      std::strerror(errno)));
  }
  return std::span<std::byte>(static_cast<std::byte*>(start), bytes);
}

// Touched now, which saves the page faults of the first collective.
Result<std::span<std::byte>> Map(int fd, std::size_t offset, std::size_t bytes) {
  Result<std::span<std::byte>> mapped = MapAt(nullptr, fd, offset, bytes);
  if (mapped && bytes <= kPopulateLimit) Segment::Populate(*mapped);
  return mapped;
}

// The size of a memfd that cannot shrink while it is mapped.
Result<std::size_t> SealedSize(int fd) {
  const int seals = fcntl(fd, F_GET_SEALS);
  struct stat about {};
  if (seals < 0 || fstat(fd, &about) != 0) {
    return Fail(Error(StatusCode::kInternal, "shared memory: descriptor {} is not a memfd: {}", fd,
                      std::strerror(errno)));
  }
  if ((seals & F_SEAL_SHRINK) == 0 || about.st_size <= 0) {
    return Fail(
        Error(StatusCode::kInternal,
              "shared memory: a segment of {} bytes that is {} against shrinking is refused",
              about.st_size, (seals & F_SEAL_SHRINK) != 0 ? "sealed" : "not sealed"));
  }
  return static_cast<std::size_t>(about.st_size);
}

}  // namespace

Result<Segment> Segment::Create(std::size_t bytes) {
  if (bytes == 0 || bytes > kLargestOffset) {
    return Fail(Error(StatusCode::kInvalidArgument, "shared memory of {} bytes", bytes));
  }
  const int fd = memfd_create("hora", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) {
    return Fail(
        Error(StatusCode::kResource, "shared memory: memfd_create: {}", std::strerror(errno)));
  }
  Segment segment(fd, {});
  if (Status status = Reserve(fd, 0, bytes); !status.ok()) return Fail(std::move(status));
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    return Fail(
        Error(StatusCode::kResource, "shared memory: cannot seal: {}", std::strerror(errno)));
  }
  Result<std::span<std::byte>> mapped = Map(fd, 0, bytes);
  if (!mapped) return Fail(std::move(mapped.error()));
  segment.bytes_ = *mapped;
  return segment;
}

Result<Segment> Segment::Attach(int fd) {
  Segment segment(fd, {});
  const Result<std::size_t> size = SealedSize(fd);
  if (!size) return Fail(size.error());
  Result<std::span<std::byte>> mapped = Map(fd, 0, *size);
  if (!mapped) return Fail(std::move(mapped.error()));
  segment.bytes_ = *mapped;
  return segment;
}

Result<Segment> Segment::CreatePart(int fd, std::size_t offset, std::size_t bytes) {
  if (bytes == 0 || bytes > kLargestOffset || offset > kLargestOffset - bytes) {
    return Fail(
        Error(StatusCode::kInvalidArgument, "shared memory of {} bytes from {}", bytes, offset));
  }
  Status reserved = Reserve(fd, offset, bytes);
  if (reserved.ok()) {
    Result<std::span<std::byte>> mapped = Map(fd, offset, bytes);
    if (mapped) return Segment(-1, *mapped);
    reserved = mapped.error();
  }
  FreePart(fd, offset, bytes);
  return Fail(std::move(reserved));
}

Result<Segment> Segment::AttachPart(int fd, std::size_t offset, std::size_t bytes) {
  const Result<std::size_t> size = SealedSize(fd);
  if (!size) return Fail(size.error());
  if (bytes == 0 || bytes > *size || offset > *size - bytes) {
    return Fail(Error(StatusCode::kInternal,
                      "shared memory: {} bytes from {} lie beyond the {} bytes that there are",
                      bytes, offset, *size));
  }
  Result<std::span<std::byte>> mapped = Map(fd, offset, bytes);
  if (!mapped) return Fail(std::move(mapped.error()));
  return Segment(-1, *mapped);
}

Status Segment::CheckRoom(std::size_t offset, std::size_t bytes) {
  if (const std::size_t available = AvailableMemory(); bytes > available) {
    return Error(
        StatusCode::kResource,
        "shared memory: need {:.1f} MiB, have {:.1f} MiB; free memory, raise the container's "
        "limit, or ask for less (HORA_WINDOW_BYTES for the windows)",
        static_cast<double>(bytes) / kMiB, static_cast<double>(available) / kMiB);
  }
  if (const std::size_t largest = LargestFile(); bytes > largest || offset > largest - bytes) {
    return Error(
        StatusCode::kResource,
        "shared memory: need {} bytes, but the file size limit is {}; raise it (ulimit -f)",
        offset + bytes, largest);
  }
  return Status::Ok();
}

Result<Segment> Segment::MapPart(int fd, std::size_t offset, std::size_t bytes) {
  const bool large = bytes >= kHugePage;
  Result<std::span<std::byte>> mapped =
      MapAt(large ? PlaceForHugePages(offset, bytes) : nullptr, fd, offset, bytes);
  if (!mapped) return Fail(std::move(mapped.error()));
  if (large) madvise(mapped->data(), bytes, MADV_HUGEPAGE);
  return Segment(-1, *mapped);
}

Status Segment::ReservePart(int fd, std::size_t offset, std::size_t bytes) {
  return Allocate(fd, offset, bytes);
}

void Segment::Populate([[maybe_unused]] std::span<std::byte> bytes) {
#ifdef MADV_POPULATE_WRITE
  madvise(bytes.data(), bytes.size(), MADV_POPULATE_WRITE);
#endif
}

void Segment::FreePart(int fd, std::size_t offset, std::size_t bytes) {
  // It can only fail for memory that is not there, which is free already.
  [[maybe_unused]] const int result =
      fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(bytes));
}

Segment::Segment(Segment&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), bytes_(std::exchange(other.bytes_, {})) {}

Segment& Segment::operator=(Segment&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Segment::~Segment() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
  if (fd_ >= 0) close(fd_);
}

}  // namespace hora

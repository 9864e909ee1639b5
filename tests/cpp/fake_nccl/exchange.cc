#include "fake_nccl/exchange.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "hora/base/wait.h"

namespace hora::fake_nccl {

struct Meeting::Area {
  std::atomic<int> joined;
  std::atomic<std::uint32_t> bell;  // changes with everything
  std::array<std::array<SplitVote, kMaxRanks>, 2> votes;

  Ring* rings() { return reinterpret_cast<Ring*>(this + 1); }
};

namespace {

// How far one message has come: the header first, then the bytes.
template <class Message>
struct Progress {
  Message message;
  std::uint64_t moved = 0;
  bool started = false;
  bool done() const { return started && moved == message.header.bytes; }
};

std::uint64_t Put(Ring& ring, const void* from, std::uint64_t bytes) {
  const std::uint64_t written = ring.written.load();
  const std::uint64_t room = Ring::kBytes - (written - ring.read.load());
  const std::uint64_t count = std::min(bytes, room);
  const std::uint64_t at = written % Ring::kBytes;
  const std::uint64_t first = std::min<std::uint64_t>(count, Ring::kBytes - at);
  if (first != 0) std::memcpy(ring.data.data() + at, from, first);
  if (count != first) {
    std::memcpy(ring.data.data(), static_cast<const std::byte*>(from) + first, count - first);
  }
  ring.written.store(written + count);
  return count;
}

std::uint64_t Take(Ring& ring, void* to, std::uint64_t bytes) {
  const std::uint64_t read = ring.read.load();
  const std::uint64_t count = std::min(bytes, ring.written.load() - read);
  const std::uint64_t at = read % Ring::kBytes;
  const std::uint64_t first = std::min<std::uint64_t>(count, Ring::kBytes - at);
  if (first != 0) std::memcpy(to, ring.data.data() + at, first);
  if (count != first) {
    std::memcpy(static_cast<std::byte*>(to) + first, ring.data.data(), count - first);
  }
  ring.read.store(read + count);
  return count;
}

bool Advance(Progress<Outgoing>& going, Ring& ring) {
  const Header& header = going.message.header;
  if (!going.started) {
    if (Ring::kBytes - (ring.written.load() - ring.read.load()) < sizeof(header)) return false;
    Put(ring, &header, sizeof(header));
    going.started = true;
    return true;
  }
  const std::uint64_t moved =
      Put(ring, going.message.data + going.moved, header.bytes - going.moved);
  going.moved += moved;
  return moved != 0;
}

// `mismatch`: the other side does something else.
bool Advance(Progress<Incoming>& coming, Ring& ring, bool& mismatch) {
  const Header& header = coming.message.header;
  if (!coming.started) {
    Header got;
    if (ring.written.load() - ring.read.load() < sizeof(got)) return false;
    Take(ring, &got, sizeof(got));
    mismatch = mismatch || got != header;
    coming.started = true;
    return true;
  }
  const std::uint64_t moved =
      Take(ring, coming.message.data + coming.moved, header.bytes - coming.moved);
  coming.moved += moved;
  return moved != 0;
}

template <class Message>
std::vector<Progress<Message>> Begin(std::vector<Message> messages) {
  std::vector<Progress<Message>> all;
  for (Message& message : messages) all.push_back({std::move(message)});
  return all;
}

// Calls advance for the first message of each peer that is not done; whether anything moved.
template <class Message, class Step>
bool AdvanceAll(std::vector<Progress<Message>>& all, bool& done, const Step& advance) {
  std::array<bool, Meeting::kMaxRanks> busy{};
  bool moved = false;
  for (Progress<Message>& one : all) {
    bool& of_peer = busy[static_cast<std::size_t>(one.message.peer)];
    if (of_peer || one.done()) continue;
    while (!one.done() && advance(one)) moved = true;
    of_peer = !one.done();
    done = done && !of_peer;
  }
  return moved;
}

}  // namespace

Meeting::Meeting(std::string name, int rank, int size)
    : name_(std::move(name)), rank_(rank), size_(size) {
  const int fd = shm_open(name_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  const std::size_t bytes =
      sizeof(Area) + sizeof(Ring) * static_cast<std::size_t>(size) * static_cast<std::size_t>(size);
  if (fd < 0 || size > kMaxRanks || ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    std::perror("the fake NCCL cannot make shared memory");
    std::abort();
  }
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (memory == MAP_FAILED) std::abort();
  area_ = static_cast<Area*>(memory);
  if (area_->joined.fetch_add(1) + 1 == size) shm_unlink(name_.c_str());
  Wake();
}

Meeting::~Meeting() {
  if (!complete()) shm_unlink(name_.c_str());
  munmap(area_, sizeof(Area) + sizeof(Ring) * static_cast<std::size_t>(size_) *
                                   static_cast<std::size_t>(size_));
}

bool Meeting::complete() const { return area_->joined.load() == size_; }

SplitVote& Meeting::vote(int rank, std::uint32_t round) {
  return area_->votes[round % 2][static_cast<std::size_t>(rank)];
}

Ring& Meeting::ring(int from, int to) {
  return area_->rings()[static_cast<std::size_t>(from * size_ + to)];
}

void Meeting::Wake() {
  area_->bell.fetch_add(1);
  FutexWakeAll(area_->bell);
}

void Meeting::Await(const std::function<bool()>& ready) {
  while (true) {
    const std::uint32_t seen = area_->bell.load();
    if (ready()) return;
    FutexWait(area_->bell, seen, SteadyClock::Instance().Now() + std::chrono::milliseconds(200));
  }
}

bool Meeting::Exchange(std::vector<Outgoing> out, std::vector<Incoming> in,
                       const std::function<bool()>& given_up) {
  auto going = Begin(std::move(out));
  auto coming = Begin(std::move(in));
  bool done = false, mismatch = false;
  Await([&] {
    bool moved = true;
    while (moved && !mismatch) {
      done = true;
      const bool sent = AdvanceAll(going, done, [&](Progress<Outgoing>& one) {
        return Advance(one, ring(rank_, one.message.peer));
      });
      const bool received = AdvanceAll(coming, done, [&](Progress<Incoming>& one) {
        return Advance(one, ring(one.message.peer, rank_), mismatch);
      });
      moved = sent || received;
      if (moved) Wake();
      if (done && !mismatch) return true;
    }
    return given_up();
  });
  return done && !mismatch;
}

}  // namespace hora::fake_nccl

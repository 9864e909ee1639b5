// The limit: what the same cores do with plain memory, one process per rank, no communication but
// barriers. Modes read, write, copy and in_place, each over a working set of BYTES per rank:
//   read      sums BYTES                       write     stores BYTES
//   copy      BYTES/2 to another BYTES/2       in_place  a = b = a + b, both of BYTES/2
// usage: memory_worker FOLDER RANKS
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <new>

#include "worker.h"

namespace peers {
namespace {

struct Meeting {
  std::atomic<int> arrived{0};
  std::atomic<int> round{0};
};

// The compiler makes the widest loops of these that the machine has.
#define PEERS_WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))

PEERS_WIDEST float Read(const float* from, std::size_t count) {
  std::uint32_t sum = 0;  // of the bits, so that additions may be reordered
  const auto* words = reinterpret_cast<const std::uint32_t*>(from);
  for (std::size_t i = 0; i < count; ++i) sum += words[i];
  return static_cast<float>(sum);
}

PEERS_WIDEST void Write(float* to, std::size_t count, float value) {
  for (std::size_t i = 0; i < count; ++i) to[i] = value;
}

PEERS_WIDEST void AddInPlace(float* __restrict a, float* __restrict b, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) a[i] = b[i] = a[i] + b[i];
}

class Memory final : public Library {
 public:
  Memory(int rank, int size, Meeting& meeting) : rank_(rank), size_(size), meeting_(meeting) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void Barrier() override {
    const int round = meeting_.round.load();
    if (meeting_.arrived.fetch_add(1) + 1 == size_) {
      meeting_.arrived.store(0);
      meeting_.round.store(round + 1);
      return;
    }
    while (meeting_.round.load() == round) sched_yield();
  }

  void Prepare(Case& what) override {
    const char* modes[] = {"read", "write", "copy", "in_place"};
    for (mode_ = 0; mode_ < 4 && what.mode != modes[mode_];) ++mode_;
    if (mode_ == 4) throw Unsupported("mode " + what.mode);
    data_ = reinterpret_cast<float*>(what.input);
    count_ = what.count;
  }

  void Run() override {
    const std::size_t half = count_ / 2;
    if (mode_ == 0) sink_ = Read(data_, count_);
    if (mode_ == 1) Write(data_, count_, 0.0F);
    if (mode_ == 2) std::memcpy(data_ + half, data_, half * sizeof(float));
    if (mode_ == 3) AddInPlace(data_, data_ + half, half);
  }

 private:
  int rank_;
  int size_;
  Meeting& meeting_;
  int mode_ = 0;
  float* data_ = nullptr;
  std::size_t count_ = 0;
  volatile float sink_ = 0;
};

int RunRanks(const std::string& folder, int ranks) {
  void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 1;
  Meeting& meeting = *new (shared) Meeting;
  for (int rank = 0; rank < ranks; ++rank) {
    if (fork() == 0) {
      PinTo(rank);
      Memory library(rank, ranks, meeting);
      std::_Exit(Serve(library, folder));
    }
  }
  int failures = 0;
  for (int status = 0; wait(&status) > 0;) failures += status != 0 ? 1 : 0;
  return failures;
}

}  // namespace
}  // namespace peers

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  return peers::RunRanks(argv[1], std::atoi(argv[2]));
}

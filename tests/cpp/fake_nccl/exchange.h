// Bytes from rank to rank through shared memory.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace hora::fake_nccl {

// Says of a message what both ends must agree on; where they do not, NCCL hangs.
struct Header {
  std::uint32_t kind = 0;
  std::uint32_t root = 0;
  std::uint64_t bytes = 0;
  std::uint64_t registered = 0;
  friend bool operator==(const Header&, const Header&) = default;
};

struct Outgoing {
  int peer = 0;
  Header header;
  const std::byte* data = nullptr;
};

struct Incoming {
  int peer = 0;
  Header header;
  std::byte* data = nullptr;
};

// One message stream; zero bytes are its initial state.
struct Ring {
  static constexpr std::size_t kBytes = 32u << 10;
  std::atomic<std::uint64_t> written;
  std::atomic<std::uint64_t> read;
  std::array<std::byte, kBytes> data;
};

// What a rank says in a split, of even and odd ones.
struct SplitVote {
  std::atomic<std::uint32_t> round;
  std::atomic<std::int32_t> color;
  std::atomic<std::int32_t> key;
};

// The shared memory of a communicator: made by whoever comes first, and without a name once all
// ranks have joined. Threads of one process and processes.
class Meeting {
 public:
  static constexpr int kMaxRanks = 16;

  Meeting(std::string name, int rank, int size);
  ~Meeting();
  Meeting(const Meeting&) = delete;
  Meeting& operator=(const Meeting&) = delete;

  const std::string& name() const { return name_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  bool complete() const;
  SplitVote& vote(int rank, std::uint32_t round);

  // Moves all of it, messages of one peer in order; false once `given_up`, which never ends before
  // where the other side does something else.
  bool Exchange(std::vector<Outgoing> out, std::vector<Incoming> in,
                const std::function<bool()>& given_up);
  void Wake();  // whoever waits looks at `given_up` again
  // Until `ready`.
  void Await(const std::function<bool()>& ready);

 private:
  struct Area;
  Ring& ring(int from, int to);

  const std::string name_;
  const int rank_;
  const int size_;
  Area* area_ = nullptr;
};

}  // namespace hora::fake_nccl

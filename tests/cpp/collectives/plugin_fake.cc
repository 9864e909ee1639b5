#include "collectives/plugin_fake.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "hora/collectives/plugin/plugin_table.h"
#include "hora/kernels/reduce.h"

namespace hora {
namespace {

struct Contribution {
  const std::byte* input = nullptr;
  std::byte* buffer = nullptr;
  const std::uint64_t* bytes = nullptr;  // by rank
};

// Where the ranks of a group meet.
struct Room {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Contribution> contributions;
  std::vector<std::byte> scratch;
  int arrived = 0;
  std::uint64_t round = 0;
  bool aborted = false;
};

std::mutex rooms_mutex;
std::map<std::string, std::weak_ptr<Room>> rooms;

void Measure(std::uint64_t bytes) {
  std::uint64_t largest = FakeBehaviour().largest;
  while (bytes > largest && !FakeBehaviour().largest.compare_exchange_weak(largest, bytes)) {
  }
}

class FakeGroup {
 public:
  static plugin::Description Describe() {
    return {.text = "threads of one process", .refusal = ""};
  }

  static bool Reduces(hora_plugin_element element) noexcept {
    const auto dtype = static_cast<DType>(element.dtype);
    const auto op = static_cast<ReduceOp>(element.reduce_op);
    const bool adds = op == ReduceOp::kSum || op == ReduceOp::kProduct;
    const bool integer = dtype <= DType::kInt64;
    const bool wide = dtype == DType::kFloat32 || dtype == DType::kFloat64;
    return FakeBehaviour().reduces && (integer || (wide && adds));
  }

  explicit FakeGroup(const hora_plugin_group& wanted)
      : rank_(static_cast<std::size_t>(wanted.rank)),
        size_(static_cast<std::size_t>(wanted.size)),
        timeout_(wanted.timeout_ms) {
    TryStore(wanted);
    const std::lock_guard lock(rooms_mutex);
    room_ = rooms[wanted.name].lock();
    if (room_ != nullptr) return;
    room_ = std::make_shared<Room>();
    room_->contributions.resize(size_);
    rooms[wanted.name] = room_;
  }

  void Abort() noexcept {
    const std::lock_guard lock(room_->mutex);
    room_->aborted = true;
    room_->changed.notify_all();
  }

  void Allreduce(void* buffer, std::uint64_t count, hora_plugin_element element) {
    const ReduceSpec spec{.dtype = static_cast<DType>(element.dtype),
                          .op = static_cast<ReduceOp>(element.reduce_op)};
    ++FakeBehaviour().allreduces;
    Measure(count * SizeOf(spec.dtype));
    std::vector<std::byte> result(count * SizeOf(spec.dtype));
    Exchange({.buffer = static_cast<std::byte*>(buffer)}, [&] {
      std::vector<const std::byte*> sources;
      for (const Contribution& one : room_->contributions) sources.push_back(one.buffer);
      std::byte* const to = result.data();
      Reduce(spec, sources, {&to, 1}, count);
    });
    if (count > 0) std::memcpy(buffer, result.data(), result.size());
  }

  void Broadcast(void* buffer, std::uint64_t bytes, int root) {
    Measure(bytes);
    Exchange({.buffer = static_cast<std::byte*>(buffer)}, [&] {
      const auto from = static_cast<std::size_t>(root);
      if (rank_ == from || bytes == 0) return;
      std::memcpy(buffer, room_->contributions[from].buffer, bytes);
    });
  }

  void Allgather(const void* input, void* output, const std::uint64_t* bytes_by_rank) {
    ++FakeBehaviour().moves;
    Exchange({.input = static_cast<const std::byte*>(input)}, [&] {
      Measure(Total(bytes_by_rank));
      auto* to = static_cast<std::byte*>(output);
      for (std::size_t rank = 0; rank < size_; ++rank) {
        const std::uint64_t bytes = bytes_by_rank[rank];
        if (bytes > 0) std::memcpy(to, room_->contributions[rank].input, bytes);
        to += bytes;
      }
    });
  }

  void Alltoall(const void* input, const std::uint64_t* bytes_to, void* output,
                const std::uint64_t* bytes_from) {
    ++FakeBehaviour().moves;
    Exchange({.input = static_cast<const std::byte*>(input), .bytes = bytes_to}, [&] {
      Measure(std::max(Total(bytes_to), Total(bytes_from)));
      auto* to = static_cast<std::byte*>(output);
      for (std::size_t rank = 0; rank < size_; ++rank) {
        const Contribution& other = room_->contributions[rank];
        const std::uint64_t begin =
            std::accumulate(other.bytes, other.bytes + rank_, std::uint64_t{0});
        const std::uint64_t bytes = bytes_from[rank];
        if (other.bytes[rank_] != bytes) std::abort();  // the ranks disagree
        if (bytes > 0) std::memcpy(to, other.input + begin, bytes);
        to += bytes;
      }
    });
  }

 private:
  // The callbacks are part of the interface: rank r tells, everybody reads.
  static void TryStore(const hora_plugin_group& wanted) {
    hora_plugin_error error{};
    const auto require = [&](int code) {
      if (code != 0) throw std::runtime_error(error.text);
    };
    const std::string own = std::to_string(wanted.rank);
    require(wanted.set(wanted.store, own.c_str(), own.data(), own.size(), &error));
    for (int rank = 0; rank < wanted.size; ++rank) {
      char value[8];
      std::size_t bytes = sizeof(value);
      const std::string key = std::to_string(rank);
      require(wanted.get(wanted.store, key.c_str(), value, &bytes, &error));
      if (std::string(value, bytes) != key) throw std::runtime_error("the store has another value");
    }
  }

  std::uint64_t Total(const std::uint64_t* bytes) const {
    return std::accumulate(bytes, bytes + size_, std::uint64_t{0});
  }

  // Waits until all ranks are at the same point.
  void Meet() {
    std::unique_lock lock(room_->mutex);
    const std::uint64_t round = room_->round;
    if (++room_->arrived == static_cast<int>(size_)) {
      room_->arrived = 0;
      ++room_->round;
      room_->changed.notify_all();
    }
    const bool in_time = room_->changed.wait_for(
        lock, timeout_, [&] { return room_->round != round || room_->aborted; });
    if (room_->aborted) throw std::runtime_error("the group was aborted");
    if (!in_time) throw std::runtime_error("some rank did not come");
  }

  // Everybody shows what it has, reads what it needs from the others, and waits until all have.
  void Exchange(const Contribution& mine, const std::function<void()>& read) {
    int fail = 1;
    if (FakeBehaviour().fails_at.compare_exchange_strong(fail, 0)) {
      throw std::runtime_error("the cable is unplugged");
    }
    room_->contributions[rank_] = mine;
    Meet();
    read();
    Meet();
  }

  const std::size_t rank_;
  const std::size_t size_;
  const std::chrono::milliseconds timeout_;
  std::shared_ptr<Room> room_;
};

}  // namespace

PluginFakeBehaviour& FakeBehaviour() {
  static PluginFakeBehaviour behaviour;
  return behaviour;
}

const hora_plugin* FakePlugin() {
  static constexpr auto kTable = plugin::TableOf<FakeGroup>("fake");
  return &kTable;
}

}  // namespace hora

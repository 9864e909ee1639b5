#include "collectives/plugin_fake.h"

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

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

struct Group {
  std::shared_ptr<Room> room;
  std::size_t rank;
  std::size_t size;
  std::chrono::milliseconds timeout;
};

int Fail(hora_plugin_error* error, const char* text) {
  std::snprintf(error->text, sizeof(error->text), "%s", text);
  return 1;
}

// Waits until all ranks are at the same point.
int Meet(Group& group, hora_plugin_error* error) {
  Room& room = *group.room;
  std::unique_lock lock(room.mutex);
  const std::uint64_t round = room.round;
  if (++room.arrived == static_cast<int>(group.size)) {
    room.arrived = 0;
    ++room.round;
    room.changed.notify_all();
  }
  const bool in_time = room.changed.wait_for(lock, group.timeout,
                                             [&] { return room.round != round || room.aborted; });
  if (room.aborted) return Fail(error, "the group was aborted");
  return in_time ? 0 : Fail(error, "some rank did not come");
}

void Measure(std::uint64_t bytes) {
  std::uint64_t largest = FakeBehaviour().largest;
  while (bytes > largest && !FakeBehaviour().largest.compare_exchange_weak(largest, bytes)) {
  }
}

std::uint64_t Total(const Group& group, const std::uint64_t* bytes) {
  return std::accumulate(bytes, bytes + group.size, std::uint64_t{0});
}

// Everybody shows what it has, reads what it needs from the others, and waits until all have.
int Exchange(void* of, const Contribution& mine, hora_plugin_error* error,
             const std::function<void(const Group&, const Room&)>& read) {
  Group& group = *static_cast<Group*>(of);
  int fail = 1;
  if (FakeBehaviour().fails_at.compare_exchange_strong(fail, 0)) {
    return Fail(error, "the cable is unplugged");
  }
  group.room->contributions[group.rank] = mine;
  if (int code = Meet(group, error); code != 0) return code;
  read(group, *group.room);
  return Meet(group, error);
}

int Describe(char* text, std::size_t bytes, hora_plugin_error*) {
  std::snprintf(text, bytes, "threads of one process");
  return 0;
}

int Create(const hora_plugin_group* wanted, void** group, hora_plugin_error* error) {
  // The callbacks are part of the interface: rank r tells, everybody reads.
  const std::string own = std::to_string(wanted->rank);
  if (wanted->set(wanted->store, own.c_str(), own.data(), own.size(), error) != 0) return 1;
  for (int rank = 0; rank < wanted->size; ++rank) {
    char value[8];
    std::size_t bytes = sizeof(value);
    const std::string key = std::to_string(rank);
    if (wanted->get(wanted->store, key.c_str(), value, &bytes, error) != 0) return 1;
    if (std::string(value, bytes) != key) return Fail(error, "the store has another value");
  }
  const std::lock_guard lock(rooms_mutex);
  std::shared_ptr<Room> room = rooms[wanted->name].lock();
  const auto size = static_cast<std::size_t>(wanted->size);
  if (!room) {
    room = std::make_shared<Room>();
    room->contributions.resize(size);
    rooms[wanted->name] = room;
  }
  *group = new Group{room, static_cast<std::size_t>(wanted->rank), size,
                     std::chrono::milliseconds(wanted->timeout_ms)};
  return 0;
}

void Destroy(void* group) { delete static_cast<Group*>(group); }

void Abort(void* of) {
  Room& room = *static_cast<Group*>(of)->room;
  const std::lock_guard lock(room.mutex);
  room.aborted = true;
  room.changed.notify_all();
}

int Reduces(hora_plugin_element element) {
  const auto dtype = static_cast<DType>(element.dtype);
  const auto op = static_cast<ReduceOp>(element.reduce_op);
  const bool adds = op == ReduceOp::kSum || op == ReduceOp::kProduct;
  const bool integer = dtype <= DType::kInt64;
  const bool wide = dtype == DType::kFloat32 || dtype == DType::kFloat64;
  return FakeBehaviour().reduces && (integer || (wide && adds)) ? 1 : 0;
}

int Allreduce(void* of, void* buffer, std::uint64_t count, hora_plugin_element element,
              hora_plugin_error* error) {
  const ReduceSpec spec{.dtype = static_cast<DType>(element.dtype),
                        .op = static_cast<ReduceOp>(element.reduce_op)};
  ++FakeBehaviour().allreduces;
  Measure(count * SizeOf(spec.dtype));
  std::vector<std::byte> result(count * SizeOf(spec.dtype));
  const int code = Exchange(of, {.buffer = static_cast<std::byte*>(buffer)}, error,
                            [&](const Group&, const Room& room) {
                              std::vector<const std::byte*> sources;
                              for (const auto& one : room.contributions) {
                                sources.push_back(one.buffer);
                              }
                              std::byte* const to = result.data();
                              Reduce(spec, sources, {&to, 1}, count);
                            });
  if (code == 0 && count > 0) std::memcpy(buffer, result.data(), result.size());
  return code;
}

int Broadcast(void* of, void* buffer, std::uint64_t bytes, std::int32_t root,
              hora_plugin_error* error) {
  Measure(bytes);
  return Exchange(of, {.buffer = static_cast<std::byte*>(buffer)}, error,
                  [&](const Group& group, const Room& room) {
                    const auto from = static_cast<std::size_t>(root);
                    if (group.rank == from || bytes == 0) return;
                    std::memcpy(buffer, room.contributions[from].buffer, bytes);
                  });
}

int Allgather(void* of, const void* input, void* output, const std::uint64_t* bytes_by_rank,
              hora_plugin_error* error) {
  ++FakeBehaviour().moves;
  return Exchange(of, {.input = static_cast<const std::byte*>(input)}, error,
                  [&](const Group& group, const Room& room) {
                    Measure(Total(group, bytes_by_rank));
                    auto* to = static_cast<std::byte*>(output);
                    for (std::size_t rank = 0; rank < group.size; ++rank) {
                      const std::uint64_t bytes = bytes_by_rank[rank];
                      if (bytes > 0) std::memcpy(to, room.contributions[rank].input, bytes);
                      to += bytes;
                    }
                  });
}

int Alltoall(void* of, const void* input, const std::uint64_t* bytes_to, void* output,
             const std::uint64_t* bytes_from, hora_plugin_error* error) {
  ++FakeBehaviour().moves;
  const Contribution mine{.input = static_cast<const std::byte*>(input), .bytes = bytes_to};
  return Exchange(of, mine, error, [&](const Group& group, const Room& room) {
    Measure(std::max(Total(group, bytes_to), Total(group, bytes_from)));
    auto* to = static_cast<std::byte*>(output);
    for (std::size_t rank = 0; rank < group.size; ++rank) {
      const Contribution& other = room.contributions[rank];
      const std::uint64_t begin =
          std::accumulate(other.bytes, other.bytes + group.rank, std::uint64_t{0});
      const std::uint64_t bytes = bytes_from[rank];
      if (other.bytes[group.rank] != bytes) std::abort();  // the ranks disagree
      if (bytes > 0) std::memcpy(to, other.input + begin, bytes);
      to += bytes;
    }
  });
}

}  // namespace

PluginFakeBehaviour& FakeBehaviour() {
  static PluginFakeBehaviour behaviour;
  return behaviour;
}

const hora_plugin* FakePlugin() {
  static constexpr hora_plugin kPlugin = {
      .abi = HORA_PLUGIN_ABI,
      .name = "fake",
      .describe = Describe,
      .create = Create,
      .destroy = Destroy,
      .abort = Abort,
      .reduces = Reduces,
      .allreduce = Allreduce,
      .broadcast = Broadcast,
      .allgather = Allgather,
      .alltoall = Alltoall,
  };
  return &kPlugin;
}

}  // namespace hora

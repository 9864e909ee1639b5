// What every native worker does: it takes orders from a pipe, times a collective of its library and
// answers on another pipe. Between orders it sleeps in read(), so that peers take turns in one run
// without disturbing each other.
//
// Order, one line:  run OP DTYPE BYTES MODE SAMPLES CALLS CHECK
//   OP      allreduce, allgather, broadcast, reducescatter, alltoall
//   BYTES   the larger of what a rank sends and receives, as nccl-tests counts
//   MODE    how the library is to do it; "default" unless it has several ways
//   CALLS   back to back in each of SAMPLES samples; a barrier of the library precedes a sample
//   CHECK   1: run twice more, before and after, on known values and count wrong elements
// Answer, one line:  ok WRONG T1 T2 …   microseconds per call of each sample
//                    unsupported         and why
//                    error               and why
// "quit", or the end of the pipe, ends the worker. Every rank answers for itself.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "values.h"

namespace peers {

class Unsupported : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A library under test. Throws Unsupported from Prepare, std::exception for anything that fails.
class Library {
 public:
  virtual ~Library() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Once per order, before Run; may put memory of its own in place of the buffers.
  virtual void Prepare(Case& what) = 0;
  virtual void Run() = 0;
  virtual void Barrier() = 0;
};

// Page-aligned memory that only grows, so that later orders find it touched.
class Buffer {
 public:
  std::byte* Of(std::size_t bytes) {
    if (bytes > capacity_) {
      memory_.reset(
          static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)));
      capacity_ = bytes;
      std::memset(memory_.get(), 0, bytes);
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte[], Free> memory_;
  std::size_t capacity_ = 0;
};

// A core of its own for each rank while there are enough of them; ranks beyond share alike.
inline void PinTo(int rank) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  int turn = rank % CPU_COUNT(&allowed);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed) || turn-- > 0) continue;
    CPU_ZERO(&allowed);
    CPU_SET(core, &allowed);
    sched_setaffinity(0, sizeof(allowed), &allowed);
    return;
  }
}

struct Order {
  Case what;
  int samples = 1;
  int calls = 1;
  bool check = false;
};

inline Order ParseOrder(const std::string& line, int ranks) {
  std::istringstream words(line);
  std::string verb, op, type;
  std::size_t bytes = 0;
  Order order;
  words >> verb >> op >> type >> bytes >> order.what.mode >> order.samples >> order.calls >>
      order.check;
  if (!words || verb != "run") throw std::runtime_error("not an order: " + line);
  const char* ops[] = {"allreduce", "allgather", "broadcast", "reducescatter", "alltoall"};
  const char* types[] = {"float32", "float16", "bfloat16"};
  int index = 0;
  while (index < 5 && op != ops[index]) ++index;
  if (index == 5) throw Unsupported("operation " + op);
  order.what.op = static_cast<Op>(index);
  for (index = 0; index < 3 && type != types[index];) ++index;
  if (index == 3) throw Unsupported("element type " + type);
  order.what.type = static_cast<Type>(index);
  order.what.count = bytes / order.what.element_bytes();
  const bool parts = order.what.op != Op::kAllreduce && order.what.op != Op::kBroadcast;
  if (parts) order.what.count -= order.what.count % static_cast<std::size_t>(ranks);
  if (order.what.count == 0) throw Unsupported("fewer elements than ranks");
  return order;
}

inline std::string Execute(Library& library, Order order, Buffer& first, Buffer& second) {
  Case& what = order.what;
  what.input = first.Of(what.bytes());
  const bool in_place = what.op == Op::kAllreduce || what.op == Op::kBroadcast;
  what.output = in_place ? what.input : second.Of(what.bytes());
  library.Prepare(what);
  const Values values(what, library.rank(), library.size());
  std::size_t wrong = 0;
  const auto check = [&] {
    if (!order.check) return;
    values.Fill();
    library.Barrier();
    library.Run();
    wrong += values.CountWrong();
  };
  check();
  values.Clear();
  std::vector<double> times;
  for (int sample = -1; sample < order.samples; ++sample) {  // the first one warms up
    library.Barrier();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < order.calls; ++i) library.Run();
    const std::chrono::duration<double, std::micro> spent =
        std::chrono::steady_clock::now() - start;
    if (sample >= 0) times.push_back(spent.count() / order.calls);
  }
  check();
  std::ostringstream answer;
  answer << "ok " << wrong;
  for (const double time : times) answer << ' ' << time;
  return answer.str();
}

// Serves orders from `folder`/in.RANK until told to quit; answers go to `folder`/out.RANK.
inline int Serve(Library& library, const std::string& folder) {
  const std::string name = std::to_string(library.rank());
  std::FILE* in = std::fopen((folder + "/in." + name).c_str(), "r");
  std::FILE* out = std::fopen((folder + "/out." + name).c_str(), "w");
  if (in == nullptr || out == nullptr) {
    std::fprintf(stderr, "no pipes in %s\n", folder.c_str());
    return 1;
  }
  Buffer first, second;
  char line[512];
  std::fprintf(out, "ready %d\n", library.size());
  std::fflush(out);
  while (std::fgets(line, sizeof(line), in) != nullptr && std::strncmp(line, "quit", 4) != 0) {
    std::string answer;
    try {
      answer = Execute(library, ParseOrder(line, library.size()), first, second);
    } catch (const Unsupported& reason) {
      answer = std::string("unsupported ") + reason.what();
    } catch (const std::exception& reason) {
      answer = std::string("error ") + reason.what();
    }
    std::fprintf(out, "%s\n", answer.c_str());
    std::fflush(out);
  }
  return 0;
}

}  // namespace peers

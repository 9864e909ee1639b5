// A communicator of the fake NCCL: what is put on streams, and how it is answered for.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "fake_nccl/exchange.h"
#include "fake_nccl/fake_nccl.h"

namespace hora::fake_nccl {

using nccl::DataType;
using nccl::RedOp;
using NcclResult = nccl::Result;

FakeNcclControl& Control();

enum class Kind : std::uint32_t {
  kAllReduce,
  kReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kSend,
  kRecv
};

struct Operation {
  Kind kind = Kind::kAllReduce;
  const void* from = nullptr;
  void* to = nullptr;
  std::size_t count = 0;
  DataType type = DataType::kUint8;
  RedOp op = RedOp::kSum;
  int root = 0;             // or peer
  bool registered = false;  // all of its memory is: then that of all ranks must be
};

std::size_t BytesOf(DataType type);

// Shared by the handle that the caller has and by what is on streams. Any thread.
class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(std::string name, int rank, int size, bool blocking);
  ~Communicator();

  int rank() const { return meeting_.rank(); }
  int size() const { return meeting_.size(); }
  const std::string& name() const { return meeting_.name(); }
  bool blocking() const { return blocking_; }

  // Where non-blocking answers come from: does what is due.
  NcclResult Poll();
  // Takes the operations of a group: at once, or when it has been polled for long enough.
  NcclResult Launch(std::vector<Operation> group, void* stream);
  void Finalize();
  void Abort();
  NcclResult Fail(NcclResult result);
  // Waits until the test clears the fault, if it is this rank's.
  void HangWhile(const std::atomic<bool>& fault);

  // Once it is ready, or aborted: what making it does last, as in NCCL.
  void WhenMade(std::function<void()> done);
  // What makes a part of it, once it has been polled for long enough. False: not yet.
  void BeginPart(std::function<bool()> make);
  // Takes part in a split; what comes of it, once all ranks have said their colors: false: not yet,
  // else `part`, null without a color.
  std::uint32_t Vote(int color, int key);
  bool TrySplit(std::uint32_t round, int color, std::shared_ptr<Communicator>& part);

  void* Register(const void* memory, std::size_t bytes);
  bool Deregister(void* handle);

 private:
  bool IsFaulty() const;
  bool IsRegistered(const Operation& operation);
  bool IsReached(int at) const { return at != 0 && IsFaulty() && launched_.load() == at; }
  void Enqueue(std::vector<Operation> group, void* stream);
  bool Run(const std::vector<Operation>& group);
  bool RunOne(const Operation& operation);
  bool RunTransfers(const std::vector<Operation>& group);

  Meeting meeting_;
  const bool blocking_;
  std::atomic<bool> aborted_{false};
  std::atomic<NcclResult> error_{NcclResult::kSuccess};
  std::atomic<int> on_streams_{0};
  std::atomic<int> launched_{0};

  std::mutex mutex_;
  int polls_left_ = 0;         // mutex_
  std::function<void()> due_;  // mutex_; once no polls are left
  bool finalizing_ = false;    // mutex_
  std::map<void*, std::pair<const std::byte*, std::size_t>> registered_;  // mutex_; by handle
  std::uint32_t split_round_ = 0;                                         // mutex_
  std::function<bool()> part_;                                            // mutex_
  std::function<void()> made_;                                            // mutex_
};

}  // namespace hora::fake_nccl

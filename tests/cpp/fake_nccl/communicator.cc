#include "fake_nccl/communicator.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "hora/kernels/reduce.h"

// Of the executable that has opened the library: see simulated_device.h.
extern "C" void simulated_stream_enqueue(void* stream, void (*work)(void*), void (*release)(void*),
                                         void* context);

namespace hora::fake_nccl {
namespace {

DType DTypeOf(DataType type) {
  constexpr DType kTypes[] = {DType::kInt8,     DType::kUInt8,        DType::kInt32,
                              DType::kUInt32,   DType::kInt64,        DType::kUInt64,
                              DType::kFloat16,  DType::kFloat32,      DType::kFloat64,
                              DType::kBFloat16, DType::kFloat8E4M3FN, DType::kFloat8E5M2};
  return kTypes[static_cast<int>(type)];
}

ReduceOp ReduceOpOf(RedOp op) {
  constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kProduct, ReduceOp::kMax, ReduceOp::kMin,
                               ReduceOp::kAverage};
  return kOps[static_cast<int>(op)];
}

const std::byte* At(const void* memory, std::size_t offset) {
  return static_cast<const std::byte*>(memory) + offset;
}
std::byte* At(void* memory, std::size_t offset) { return static_cast<std::byte*>(memory) + offset; }

struct OnStream {
  std::function<void()> work;
  static void Run(void* self) { static_cast<OnStream*>(self)->work(); }
  static void Release(void* self) { delete static_cast<OnStream*>(self); }
};

}  // namespace

std::size_t BytesOf(DataType type) { return SizeOf(DTypeOf(type)); }

Communicator::Communicator(std::string name, int rank, int size, bool blocking)
    : meeting_(std::move(name), rank, size), blocking_(blocking) {
  ++Control().communicators;
  polls_left_ = Control().polls;
}

Communicator::~Communicator() {
  --Control().communicators;
  Control().registrations -= static_cast<int>(registered_.size());
  for (const auto& [handle, range] : registered_) std::free(handle);
}

bool Communicator::IsFaulty() const {
  const int rank = Control().faults.rank;
  return rank == -1 || rank == meeting_.rank();
}

NcclResult Communicator::Fail(NcclResult result) {
  error_ = result;
  return result;
}

NcclResult Communicator::Poll() {
  if (error_ != NcclResult::kSuccess) return error_;
  std::function<void()> due;
  {
    const std::lock_guard lock(mutex_);
    if (!meeting_.complete() || (Control().faults.creation_hangs && IsFaulty())) {
      return NcclResult::kInProgress;
    }
    if (polls_left_ > 0) {
      --polls_left_;
      return NcclResult::kInProgress;
    }
    if (made_) std::exchange(made_, nullptr)();
    if (part_ && !part_()) return NcclResult::kInProgress;
    part_ = {};
    if (finalizing_ && on_streams_ != 0) return NcclResult::kInProgress;
    due = std::exchange(due_, {});
  }
  if (due) due();
  return error_;
}

NcclResult Communicator::Launch(std::vector<Operation> group, void* stream) {
  for (Operation& operation : group) {
    operation.registered = IsRegistered(operation);
    ++launched_;
    ++Control().operations;
    if (IsReached(Control().faults.fail_at)) return Fail(Control().faults.failure);
  }
  if (blocking_ || Control().polls == 0) {
    Enqueue(std::move(group), stream);
    return error_;
  }
  const std::lock_guard lock(mutex_);
  if (due_) ++Control().late;  // the caller did not wait until the last one was through
  polls_left_ = Control().polls;
  due_ = [this, group = std::move(group), stream] { Enqueue(group, stream); };
  return NcclResult::kInProgress;
}

void Communicator::Enqueue(std::vector<Operation> group, void* stream) {
  const bool hangs = IsReached(Control().faults.hang_at);
  const bool fails = IsReached(Control().faults.fail_async_at);
  // As long as a stream or a graph may come to it.
  ++on_streams_;
  const std::shared_ptr<void> counted(nullptr,
                                      [self = shared_from_this()](void*) { --self->on_streams_; });
  auto work = [this, counted, group = std::move(group), hangs, fails] {
    std::this_thread::sleep_for(std::chrono::microseconds(Control().delay_us));
    if (fails) Fail(Control().faults.failure);
    if (hangs || fails || !Run(group)) meeting_.Await([this] { return aborted_.load(); });
  };
  simulated_stream_enqueue(stream, OnStream::Run, OnStream::Release, new OnStream{std::move(work)});
}

void Communicator::HangWhile(const std::atomic<bool>& fault) {
  if (IsFaulty()) meeting_.Await([&] { return !fault.load(); });
}

void Communicator::Finalize() {
  HangWhile(Control().faults.end.finalize_hangs);
  const std::lock_guard lock(mutex_);
  finalizing_ = true;
}

void Communicator::Abort() {
  ++Control().aborts;
  HangWhile(Control().faults.end.abort_hangs);
  aborted_ = true;
  meeting_.Wake();
  const std::lock_guard lock(mutex_);
  due_ = {};
  part_ = {};
  if (made_) std::exchange(made_, nullptr)();
}

void* Communicator::Register(const void* memory, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  ++Control().registrations;
  void* const handle = std::malloc(1);
  registered_[handle] = {static_cast<const std::byte*>(memory), bytes};
  return handle;
}

bool Communicator::IsRegistered(const Operation& operation) {
  const std::lock_guard lock(mutex_);
  const auto knows = [this](const void* memory) {
    const auto* const at = static_cast<const std::byte*>(memory);
    return std::ranges::any_of(registered_, [at](const auto& each) {
      const auto& [begin, bytes] = each.second;
      return at >= begin && at < begin + bytes;
    });
  };
  return knows(operation.from) && knows(operation.to);
}

bool Communicator::Deregister(void* handle) {
  const std::lock_guard lock(mutex_);
  if (registered_.erase(handle) == 0) return false;
  std::free(handle);
  --Control().registrations;
  return true;
}

void Communicator::WhenMade(std::function<void()> done) {
  const std::lock_guard lock(mutex_);
  made_ = std::move(done);
}

void Communicator::BeginPart(std::function<bool()> make) {
  const std::lock_guard lock(mutex_);
  part_ = std::move(make);
  polls_left_ = Control().polls;
}

std::uint32_t Communicator::Vote(int color, int key) {
  const std::lock_guard lock(mutex_);
  ++split_round_;
  SplitVote& vote = meeting_.vote(rank(), split_round_);
  vote.color = color;
  vote.key = key;
  vote.round = split_round_;
  return split_round_;
}

bool Communicator::TrySplit(std::uint32_t round, int color, std::shared_ptr<Communicator>& part) {
  std::vector<std::pair<int, int>> members;  // key, rank
  for (int other = 0; other < size(); ++other) {
    SplitVote& vote = meeting_.vote(other, round);
    if (vote.round != round) return false;
    if (vote.color == color) members.emplace_back(vote.key, other);
  }
  if (color < 0) return true;
  std::sort(members.begin(), members.end());
  const auto own = std::find_if(members.begin(), members.end(),
                                [&](const auto& entry) { return entry.second == rank(); });
  part = std::make_shared<Communicator>(
      name() + "-" + std::to_string(round) + "-" + std::to_string(color),
      static_cast<int>(own - members.begin()), static_cast<int>(members.size()), blocking_);
  return true;
}

// Collectives one after the other, what goes from one rank to another all at once, as in NCCL.
bool Communicator::Run(const std::vector<Operation>& group) {
  for (const Operation& operation : group) {
    const bool is_transfer = operation.kind == Kind::kSend || operation.kind == Kind::kRecv;
    if (!is_transfer && !RunOne(operation)) return false;
  }
  return RunTransfers(group);
}

bool Communicator::RunTransfers(const std::vector<Operation>& group) {
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  for (const Operation& one : group) {
    const Header header{static_cast<std::uint32_t>(Kind::kSend), 0, one.count * BytesOf(one.type)};
    if (one.kind == Kind::kSend) out.push_back({one.root, header, At(one.from, 0)});
    if (one.kind == Kind::kRecv) in.push_back({one.root, header, At(one.to, 0)});
  }
  return meeting_.Exchange(std::move(out), std::move(in), [this] { return aborted_.load(); });
}

// Everybody sends what the others need of it, and reduces in the order of the ranks.
bool Communicator::RunOne(const Operation& one) {
  const std::size_t bytes = one.count * BytesOf(one.type);
  const auto kind = static_cast<std::uint32_t>(one.kind);
  const bool rooted = one.kind == Kind::kReduce || one.kind == Kind::kBroadcast;
  // Ranks with registered memory speak with each other first, and wait for those without.
  const Header header{kind, rooted ? static_cast<std::uint32_t>(one.root) : 0, bytes,
                      one.registered && !rooted ? 1u : 0u};
  const bool gathers = one.kind == Kind::kAllGather || one.kind == Kind::kBroadcast;
  const bool sends = one.kind != Kind::kBroadcast || one.root == rank();
  const bool receives = one.kind != Kind::kReduce || one.root == rank();
  const auto place = static_cast<std::size_t>(size());
  std::vector<std::byte> operands(bytes * place);  // not in place: peers may still be reading
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  for (int peer = 0; peer < size(); ++peer) {
    const auto slot = static_cast<std::size_t>(peer);
    const std::size_t offset = one.kind == Kind::kReduceScatter ? slot * bytes : 0;
    if (sends && (one.kind != Kind::kReduce || peer == one.root)) {
      out.push_back({peer, header, At(one.from, offset)});
    }
    if (receives && (one.kind != Kind::kBroadcast || peer == one.root)) {
      in.push_back({peer, header, operands.data() + slot * bytes});
    }
  }
  if (!meeting_.Exchange(std::move(out), std::move(in), [this] { return aborted_.load(); })) {
    return false;
  }
  if (!receives || bytes == 0) return true;
  if (gathers) {
    const bool all = one.kind == Kind::kAllGather;
    const std::size_t from = all ? 0 : static_cast<std::size_t>(one.root) * bytes;
    std::memcpy(one.to, operands.data() + from, all ? operands.size() : bytes);
    return true;
  }
  std::vector<const std::byte*> sources;
  for (std::size_t peer = 0; peer < place; ++peer) {
    sources.push_back(operands.data() + peer * bytes);
  }
  std::byte* const to = At(one.to, 0);
  Reduce({.dtype = DTypeOf(one.type), .op = ReduceOpOf(one.op), .divisor = size()}, sources,
         {&to, 1}, one.count);
  return true;
}

}  // namespace hora::fake_nccl

// NCCL's C symbols.
#include "fake_nccl/fake_nccl.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "fake_nccl/communicator.h"

// Of the executable that has opened the library: see simulated_device.h.
extern "C" bool simulated_memory_permits(std::size_t bytes);

namespace hora::nccl {

// What a handle points to.
struct CommOpaque {
  std::shared_ptr<fake_nccl::Communicator> own;
};

}  // namespace hora::nccl

namespace hora::fake_nccl {

FakeNcclControl& Control() {
  static FakeNcclControl control;
  return control;
}

namespace {

using nccl::Comm;

// What this thread has called since the outermost group_start, by communicator and stream.
struct Group {
  int depth = 0;
  std::vector<std::pair<std::pair<Communicator*, void*>, std::vector<Operation>>> calls;
  std::vector<std::shared_ptr<Communicator>> held;
};
// In the thread's own block: what is allocated for a library some other thread frees, which
// ThreadSanitizer takes for a race.
__attribute__((tls_model("initial-exec"))) thread_local Group group;

NcclResult LaunchGroup() {
  auto calls = std::exchange(group.calls, {});
  const auto held = std::exchange(group.held, {});
  NcclResult result = NcclResult::kSuccess;
  for (auto& [where, operations] : calls) {
    const NcclResult one = where.first->Launch(std::move(operations), where.second);
    if (one != NcclResult::kSuccess) result = one;
  }
  return result;
}

NcclResult Call(Comm comm, void* stream, const Operation& operation) {
  if (comm == nullptr || stream == nullptr) return NcclResult::kInvalidArgument;
  const std::pair key{comm->own.get(), stream};
  if (group.calls.empty() || group.calls.back().first != key) group.calls.push_back({key, {}});
  group.calls.back().second.push_back(operation);
  group.held.push_back(comm->own);
  return group.depth == 0 ? LaunchGroup() : NcclResult::kSuccess;
}

bool IsBlocking(const nccl::Config* config) { return config == nullptr || config->blocking != 0; }

NcclResult Accept(Comm comm) {
  while (comm->own->blocking() && comm->own->Poll() == NcclResult::kInProgress) usleep(50);
  return comm->own->Poll();
}

// Whether creating it is to fail on this rank.
bool IsFaulty(int rank) {
  const int faulty = Control().faults.rank;
  return faulty == -1 || faulty == rank;
}

}  // namespace
}  // namespace hora::fake_nccl

using hora::fake_nccl::Call;
using hora::fake_nccl::Communicator;
using hora::fake_nccl::Control;
using hora::fake_nccl::Kind;
using hora::nccl::Comm;
using hora::nccl::Config;
using hora::nccl::DataType;
using hora::nccl::RedOp;
using hora::nccl::Result;
using hora::nccl::UniqueId;

#pragma GCC visibility push(default)
extern "C" {

hora::FakeNcclControl* fake_nccl_control() { return &Control(); }

Result ncclGetVersion(int* version) {
  *version = Control().version;
  return Result::kSuccess;
}

Result ncclGetUniqueId(UniqueId* id) {
  if (const Result fault = Control().faults.unique_id; fault != Result::kSuccess) return fault;
  static std::atomic<int> count{0};
  std::memset(id, 0, sizeof(*id));
  std::snprintf(id->internal, sizeof(id->internal), "/hora-fake-nccl-%d-%d", getpid(), ++count);
  return Result::kSuccess;
}

Result ncclCommInitRankConfig(Comm* comm, int ranks, UniqueId id, int rank, Config* config) {
  const bool is_config = config == nullptr || config->magic == hora::nccl::kConfigMagic;
  if (rank < 0 || rank >= ranks || !is_config) return Result::kInvalidArgument;
  const Result fault = Control().faults.creation;
  if (fault != Result::kSuccess && hora::fake_nccl::IsFaulty(rank)) return fault;
  if (!simulated_memory_permits(0)) return Result::kUnhandledCudaError;  // NCCL allocates here
  const bool blocking = hora::fake_nccl::IsBlocking(config);
  *comm = new hora::nccl::CommOpaque{
      std::make_shared<Communicator>(id.internal, rank, ranks, blocking)};
  (*comm)->own->WhenMade([comm, made = *comm] { *comm = made; });
  return hora::fake_nccl::Accept(*comm);
}

Result ncclCommFinalize(Comm comm) {
  comm->own->Finalize();
  return hora::fake_nccl::Accept(comm);
}

Result ncclCommDestroy(Comm comm) {
  simulated_memory_permits(0);
  delete comm;
  return Result::kSuccess;
}

Result ncclCommAbort(Comm comm) {
  simulated_memory_permits(0);
  comm->own->Abort();
  delete comm;
  return Result::kSuccess;
}

Result ncclCommGetAsyncError(Comm comm, Result* error) {
  *error = comm->own->Poll();
  return Result::kSuccess;
}

const char* ncclGetErrorString(Result result) {
  constexpr const char* kTexts[] = {
      "no error",         "unhandled cuda error", "system error",          "internal error",
      "invalid argument", "invalid usage",        "remote process exited", "in progress"};
  return kTexts[static_cast<int>(result)];
}

const char* ncclGetLastError(Comm) { return "as the test wanted"; }

Result ncclGroupStart() {
  ++hora::fake_nccl::group.depth;
  return Result::kSuccess;
}

Result ncclGroupEnd() {
  if (--hora::fake_nccl::group.depth > 0) return Result::kSuccess;
  return hora::fake_nccl::LaunchGroup();
}

Result ncclAllReduce(const void* from, void* to, std::size_t count, DataType type, RedOp op,
                     Comm comm, void* stream) {
  return Call(comm, stream, {Kind::kAllReduce, from, to, count, type, op});
}

Result ncclReduce(const void* from, void* to, std::size_t count, DataType type, RedOp op, int root,
                  Comm comm, void* stream) {
  return Call(comm, stream, {Kind::kReduce, from, to, count, type, op, root});
}

Result ncclReduceScatter(const void* from, void* to, std::size_t count, DataType type, RedOp op,
                         Comm comm, void* stream) {
  return Call(comm, stream, {Kind::kReduceScatter, from, to, count, type, op});
}

Result ncclAllGather(const void* from, void* to, std::size_t count, DataType type, Comm comm,
                     void* stream) {
  return Call(comm, stream, {Kind::kAllGather, from, to, count, type});
}

Result ncclBroadcast(const void* from, void* to, std::size_t count, DataType type, int root,
                     Comm comm, void* stream) {
  return Call(comm, stream, {Kind::kBroadcast, from, to, count, type, RedOp::kSum, root});
}

Result ncclSend(const void* from, std::size_t count, DataType type, int peer, Comm comm,
                void* stream) {
  return Call(comm, stream, {Kind::kSend, from, nullptr, count, type, RedOp::kSum, peer});
}

Result ncclRecv(void* to, std::size_t count, DataType type, int peer, Comm comm, void* stream) {
  return Call(comm, stream, {Kind::kRecv, nullptr, to, count, type, RedOp::kSum, peer});
}

// `*part` is written when the parent is ready, as NCCL does; so is the rest of a shrunk group.
Result ncclCommSplit(Comm comm, int color, int key, Comm* part, Config*) {
  *part = nullptr;
  const Result fault = Control().faults.splitting;
  if (fault != Result::kSuccess && hora::fake_nccl::IsFaulty(comm->own->rank())) return fault;
  Communicator* const parent = comm->own.get();
  const std::uint32_t round = parent->Vote(color, key);
  parent->BeginPart([=] {
    std::shared_ptr<Communicator> made;
    if (!parent->TrySplit(round, color, made)) return false;
    if (made != nullptr) *part = new hora::nccl::CommOpaque{std::move(made)};
    return true;
  });
  return hora::fake_nccl::Accept(comm);
}

// The ranks that stay split off; whoever leaves does not call it.
Result ncclCommShrink(Comm comm, int* excluded, int count, Comm* rest, Config* config, int) {
  *rest = nullptr;
  int rank = comm->own->rank();
  for (int i = 0; i < count; ++i) {
    if (excluded[i] == comm->own->rank()) return Result::kInvalidArgument;
    if (excluded[i] < comm->own->rank()) --rank;
  }
  Communicator* const parent = comm->own.get();
  const bool blocking = hora::fake_nccl::IsBlocking(config);
  parent->BeginPart([=] {
    *rest = new hora::nccl::CommOpaque{std::make_shared<Communicator>(
        parent->name() + "-shrunk", rank, parent->size() - count, blocking)};
    return true;
  });
  return hora::fake_nccl::Accept(comm);
}

Result ncclMemAlloc(void** memory, std::size_t bytes) {
  if (const Result fault = Control().faults.allocation; fault != Result::kSuccess) return fault;
  if (!simulated_memory_permits(bytes)) return Result::kUnhandledCudaError;
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  ++Control().allocations;
  return Result::kSuccess;
}

Result ncclMemFree(void* memory) {
  simulated_memory_permits(0);  // to free minds captures as well
  std::free(memory);
  --Control().allocations;
  return Result::kSuccess;
}

Result ncclCommRegister(Comm comm, void* memory, std::size_t bytes, void** handle) {
  if (Control().faults.registration) return Result::kInvalidUsage;
  *handle = comm->own->Register(memory, bytes);
  return Result::kSuccess;
}

Result ncclCommDeregister(Comm comm, void* handle) {
  return comm->own->Deregister(handle) ? Result::kSuccess : Result::kInvalidArgument;
}

}  // extern "C"
#pragma GCC visibility pop

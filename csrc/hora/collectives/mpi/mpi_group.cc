#include "hora/collectives/mpi/mpi_group.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "hora/collectives/mpi/mpi_error.h"
#include "hora/tensor/dtype.h"
#include "hora/tensor/reduce_op.h"

namespace hora::mpi_plugin {
namespace {

// MPI counts with int.
constexpr std::uint64_t kMaxElements = 1u << 28;
constexpr std::uint64_t kMaxBytes = 1u << 30;

constexpr int kTagBound = 32767;  // every MPI has as many
constexpr int kDataTag = 1;

MPI_Op OpOf(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return MPI_SUM;
    case ReduceOp::kProduct:
      return MPI_PROD;
    case ReduceOp::kMin:
      return MPI_MIN;
    case ReduceOp::kMax:
      return MPI_MAX;
    default:
      return MPI_OP_NULL;
  }
}

// Sums and products of integers wrap around, so they are those of numbers without a sign.
MPI_Datatype TypeOf(DType dtype, bool wraps) {
  switch (dtype) {
    case DType::kUInt32:
      return wraps ? MPI_UINT32_T : MPI_DATATYPE_NULL;
    case DType::kInt32:
      return wraps ? MPI_UINT32_T : MPI_INT32_T;
    case DType::kUInt64:
      return wraps ? MPI_UINT64_T : MPI_DATATYPE_NULL;
    case DType::kInt64:
      return wraps ? MPI_UINT64_T : MPI_INT64_T;
    case DType::kFloat32:
      return wraps ? MPI_FLOAT : MPI_DATATYPE_NULL;
    case DType::kFloat64:
      return wraps ? MPI_DOUBLE : MPI_DATATYPE_NULL;
    default:
      return MPI_DATATYPE_NULL;
  }
}

bool Wraps(ReduceOp op) { return op == ReduceOp::kSum || op == ReduceOp::kProduct; }

int TagOf(const char* name) {
  std::uint32_t hash = 2166136261u;
  for (; *name != '\0'; ++name) hash = (hash ^ static_cast<unsigned char>(*name)) * 16777619u;
  return static_cast<int>(hash % kTagBound);
}

// Everybody waits here for everybody, with the patience of the store: creating a communicator has
// none.
void AwaitAll(const hora_plugin_group& group) {
  hora_plugin_error error{};
  const auto require = [&](int code) {
    if (code != 0) throw std::runtime_error(error.text);
  };
  const auto get = [&](const std::string& key) {
    char value = 0;
    std::size_t bytes = 1;
    require(group.get(group.store, key.c_str(), &value, &bytes, &error));
  };
  const std::string own = "here/" + std::to_string(group.rank);
  require(group.set(group.store, own.c_str(), "1", 1, &error));
  if (group.rank != 0) return get("all");
  for (int rank = 1; rank < group.size; ++rank) get("here/" + std::to_string(rank));
  require(group.set(group.store, "all", "1", 1, &error));
}

void CheckRanks(const hora_plugin_group& group) {
  int rank = 0, size = 0;
  Require(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  Require(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  const int wanted = group.global_ranks[group.rank];
  const int last = *std::max_element(group.global_ranks, group.global_ranks + group.size);
  if (rank == wanted && last < size) return;
  throw std::runtime_error("this is rank " + std::to_string(wanted) + " of the job, but rank " +
                           std::to_string(rank) + " of " + std::to_string(size) +
                           " to MPI; start the ranks by mpirun or horarun --mpi, with one MPI");
}

}  // namespace

plugin::Description MpiGroup::Describe() {
  return {.text = MpiProcess::Version(), .refusal = MpiProcess::WhyNot()};
}

bool MpiGroup::Reduces(hora_plugin_element element) noexcept {
  const auto op = static_cast<ReduceOp>(element.reduce_op);
  const MPI_Datatype type = TypeOf(static_cast<DType>(element.dtype), Wraps(op));
  return OpOf(op) != MPI_OP_NULL && type != MPI_DATATYPE_NULL;
}

MpiGroup::MpiGroup(const hora_plugin_group& group)
    : timeout_(group.timeout_ms),
      rank_(group.rank),
      size_(group.size),
      process_(MpiProcess::Started()) {
  process_.Run([&] {
    CheckRanks(group);
    return true;
  });
  AwaitAll(group);
  process_.Run([&] {
    CreateCommunicator(group);
    return true;
  });
  process_.CountGroup(1);
}

MpiGroup::~MpiGroup() {
  process_.CountGroup(-1);
  if (failed_ || aborted_) return;  // peers may be gone
  process_.Run([this] {
    MPI_Comm_free(&communicator_);
    return true;
  });
}

void MpiGroup::CreateCommunicator(const hora_plugin_group& group) {
  MPI_Group all, members;
  Require(MPI_Comm_group(MPI_COMM_WORLD, &all), "MPI_Comm_group");
  Require(MPI_Group_incl(all, group.size, group.global_ranks, &members), "MPI_Group_incl");
  const int code =
      MPI_Comm_create_group(MPI_COMM_WORLD, members, TagOf(group.name), &communicator_);
  MPI_Group_free(&members);
  MPI_Group_free(&all);
  Require(code, "MPI_Comm_create_group");
  Require(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

void MpiGroup::Complete(const Begin& begin) {
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
  std::vector<MPI_Request> requests;
  bool begun = false;
  const auto step = [&] {
    if (aborted_) throw std::runtime_error("the group was aborted");
    if (!begun) begin(requests);
    begun = true;
    int done = 0;
    Require(
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
        "MPI_Testall");
    if (done == 0 && std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error("not done after " + std::to_string(timeout_.count() / 1000.0) +
                               " s; some rank does not take part");
    }
    return done != 0;
  };
  try {
    process_.Run(step);
  } catch (...) {
    failed_ = true;
    MpiProcess::NoteFailure();
    throw;
  }
}

void MpiGroup::Allreduce(void* buffer, std::uint64_t count, hora_plugin_element element) {
  const auto op = static_cast<ReduceOp>(element.reduce_op);
  const auto dtype = static_cast<DType>(element.dtype);
  const MPI_Datatype type = TypeOf(dtype, Wraps(op));
  int type_bytes = 0;
  auto* next = static_cast<std::byte*>(buffer);
  while (count > 0) {
    const int part = static_cast<int>(std::min(count, kMaxElements));
    Complete([&](std::vector<MPI_Request>& requests) {
      Require(MPI_Type_size(type, &type_bytes), "MPI_Type_size");
      Require(MPI_Iallreduce(MPI_IN_PLACE, next, part, type, OpOf(op), communicator_,
                             &requests.emplace_back()),
              "MPI_Iallreduce");
    });
    next += static_cast<std::ptrdiff_t>(part) * type_bytes;
    count -= static_cast<std::uint64_t>(part);
  }
}

void MpiGroup::Broadcast(void* buffer, std::uint64_t bytes, int root) {
  auto* next = static_cast<std::byte*>(buffer);
  while (bytes > 0) {
    const int part = static_cast<int>(std::min(bytes, kMaxBytes));
    Complete([&](std::vector<MPI_Request>& requests) {
      Require(MPI_Ibcast(next, part, MPI_BYTE, root, communicator_, &requests.emplace_back()),
              "MPI_Ibcast");
    });
    next += part;
    bytes -= static_cast<std::uint64_t>(part);
  }
}

void MpiGroup::Allgather(const void* input, void* output, const std::uint64_t* bytes_by_rank) {
  const auto size = static_cast<std::size_t>(size_);
  std::vector<std::uint64_t> begins(size + 1, 0);
  for (std::size_t rank = 0; rank < size; ++rank) {
    begins[rank + 1] = begins[rank] + bytes_by_rank[rank];
  }
  auto* const out = static_cast<std::byte*>(output);
  const std::uint64_t own = bytes_by_rank[rank_];
  if (begins[size] > kMaxBytes) {
    if (own > 0) std::memcpy(out + begins[static_cast<std::size_t>(rank_)], input, own);
    for (std::size_t rank = 0; rank < size; ++rank) {
      Broadcast(out + begins[rank], bytes_by_rank[rank], static_cast<int>(rank));
    }
    return;
  }
  const std::vector<int> offsets(begins.begin(), begins.end() - 1);
  const std::vector<int> counts(bytes_by_rank, bytes_by_rank + size);
  Complete([&](std::vector<MPI_Request>& requests) {
    Require(MPI_Iallgatherv(input, static_cast<int>(own), MPI_BYTE, output, counts.data(),
                            offsets.data(), MPI_BYTE, communicator_, &requests.emplace_back()),
            "MPI_Iallgatherv");
  });
}

// Pieces that each pair of ranks cuts alike, whatever the others do.
void MpiGroup::Transfer(std::byte* data, std::uint64_t bytes, int peer, bool receives,
                        std::vector<MPI_Request>& requests) {
  while (bytes > 0) {
    const int part = static_cast<int>(std::min(bytes, kMaxBytes));
    MPI_Request* const request = &requests.emplace_back();
    if (receives) {
      Require(MPI_Irecv(data, part, MPI_BYTE, peer, kDataTag, communicator_, request), "MPI_Irecv");
    } else {
      Require(MPI_Isend(data, part, MPI_BYTE, peer, kDataTag, communicator_, request), "MPI_Isend");
    }
    data += part;
    bytes -= static_cast<std::uint64_t>(part);
  }
}

void MpiGroup::Alltoall(const void* input, const std::uint64_t* bytes_to, void* output,
                        const std::uint64_t* bytes_from) {
  // MPI takes what it sends as const, but a piece of either kind is the same to Transfer.
  auto* const in = static_cast<std::byte*>(const_cast<void*>(input));
  auto* const out = static_cast<std::byte*>(output);
  Complete([&](std::vector<MPI_Request>& requests) {
    std::uint64_t received = 0, sent = 0;
    for (int peer = 0; peer < size_; ++peer) {
      if (peer != rank_) Transfer(out + received, bytes_from[peer], peer, true, requests);
      received += bytes_from[peer];
    }
    for (int peer = 0; peer < size_; ++peer) {
      if (peer != rank_) Transfer(in + sent, bytes_to[peer], peer, false, requests);
      sent += bytes_to[peer];
    }
  });
  std::uint64_t from = 0, to = 0;
  for (int peer = 0; peer < rank_; ++peer) {
    from += bytes_to[peer];
    to += bytes_from[peer];
  }
  if (bytes_to[rank_] > 0) std::memcpy(out + to, in + from, bytes_to[rank_]);
}

}  // namespace hora::mpi_plugin

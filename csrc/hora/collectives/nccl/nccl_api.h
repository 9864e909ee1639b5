// The part of NCCL's C interface that hora calls, as its documentation gives it (NCCL User Guide,
// "NCCL API"). Declared here so that the core needs no header of NCCL: the library is the one that
// is in the process already, or is opened when it is wanted. Nothing may be reordered.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hora::nccl {

using Comm = struct CommOpaque*;

struct UniqueId {
  char internal[128];
};

enum class Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

enum class DataType : int {
  kInt8 = 0,
  kUint8 = 1,
  kInt32 = 2,
  kUint32 = 3,
  kInt64 = 4,
  kUint64 = 5,
  kFloat16 = 6,
  kFloat32 = 7,
  kFloat64 = 8,
  kBfloat16 = 9,
  kFloat8e4m3 = 10,  // from 2.24 on
  kFloat8e5m2 = 11,
};

enum class RedOp : int { kSum = 0, kProd = 1, kMax = 2, kMin = 3, kAvg = 4 };

// As of 2.17; later versions read `size` and take what is not there as undefined.
struct Config {
  std::size_t size;
  unsigned int magic;
  unsigned int version;
  int blocking;
  int cga_cluster_size;
  int min_ctas;
  int max_ctas;
  const char* net_name;
  int split_share;
};
inline constexpr unsigned int kConfigMagic = 0xcafebeef;
inline constexpr int kUndefined = INT32_MIN;
inline constexpr int kConfigVersion = 21800;
inline constexpr int kShrinkAbort = 1;  // end what the group is at first

// cudaStream_t travels as void*.
struct Api {
  Result (*get_version)(int* version) = nullptr;
  Result (*get_unique_id)(UniqueId* id) = nullptr;
  Result (*init_rank_config)(Comm* comm, int ranks, UniqueId id, int rank,
                             Config* config) = nullptr;
  Result (*finalize)(Comm comm) = nullptr;
  Result (*destroy)(Comm comm) = nullptr;
  Result (*abort)(Comm comm) = nullptr;
  Result (*get_async_error)(Comm comm, Result* error) = nullptr;
  const char* (*get_error_string)(Result result) = nullptr;
  const char* (*get_last_error)(Comm comm) = nullptr;
  Result (*group_start)() = nullptr;
  Result (*group_end)() = nullptr;

  Result (*all_reduce)(const void* from, void* to, std::size_t count, DataType type, RedOp op,
                       Comm comm, void* stream) = nullptr;
  Result (*reduce)(const void* from, void* to, std::size_t count, DataType type, RedOp op, int root,
                   Comm comm, void* stream) = nullptr;
  Result (*reduce_scatter)(const void* from, void* to, std::size_t count, DataType type, RedOp op,
                           Comm comm, void* stream) = nullptr;
  Result (*all_gather)(const void* from, void* to, std::size_t count, DataType type, Comm comm,
                       void* stream) = nullptr;
  Result (*broadcast)(const void* from, void* to, std::size_t count, DataType type, int root,
                      Comm comm, void* stream) = nullptr;
  Result (*send)(const void* from, std::size_t count, DataType type, int peer, Comm comm,
                 void* stream) = nullptr;
  Result (*recv)(void* to, std::size_t count, DataType type, int peer, Comm comm,
                 void* stream) = nullptr;

  // Null where the version has none.
  Result (*split)(Comm comm, int color, int key, Comm* parts, Config* config) = nullptr;  // 2.18
  Result (*shrink)(Comm comm, int* excluded, int count, Comm* rest, Config* config,
                   int flags) = nullptr;                            // 2.27
  Result (*mem_alloc)(void** memory, std::size_t bytes) = nullptr;  // 2.19
  Result (*mem_free)(void* memory) = nullptr;                       // 2.19
  Result (*register_buffer)(Comm comm, void* buffer, std::size_t bytes, void** handle) = nullptr;
  Result (*deregister_buffer)(Comm comm, void* handle) = nullptr;  // 2.19
};

}  // namespace hora::nccl

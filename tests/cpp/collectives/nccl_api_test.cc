// What hora declares of NCCL is what NCCL's own header says. It compiles or it does not, where that
// header is found (an installed NCCL, or PyTorch's nvidia-nccl wheel); elsewhere it is empty.
#if HORA_HAS_NCCL_HEADER

#include "hora/collectives/nccl/nccl_api.h"

#include <gtest/gtest.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace hora::nccl {
namespace {

// --- Numbers -------------------------------------------------------------------------------------

template <class Own, class Theirs>
constexpr bool IsNumber(Own own, Theirs theirs) {
  return sizeof(Own) == sizeof(Theirs) && static_cast<int>(own) == static_cast<int>(theirs);
}

static_assert(IsNumber(Result::kSuccess, ncclSuccess));
static_assert(IsNumber(Result::kUnhandledCudaError, ncclUnhandledCudaError));
static_assert(IsNumber(Result::kSystemError, ncclSystemError));
static_assert(IsNumber(Result::kInternalError, ncclInternalError));
static_assert(IsNumber(Result::kInvalidArgument, ncclInvalidArgument));
static_assert(IsNumber(Result::kInvalidUsage, ncclInvalidUsage));
static_assert(IsNumber(Result::kRemoteError, ncclRemoteError));
static_assert(IsNumber(Result::kInProgress, ncclInProgress));

static_assert(IsNumber(DataType::kInt8, ncclInt8));
static_assert(IsNumber(DataType::kUint8, ncclUint8));
static_assert(IsNumber(DataType::kInt32, ncclInt32));
static_assert(IsNumber(DataType::kUint32, ncclUint32));
static_assert(IsNumber(DataType::kInt64, ncclInt64));
static_assert(IsNumber(DataType::kUint64, ncclUint64));
static_assert(IsNumber(DataType::kFloat16, ncclFloat16));
static_assert(IsNumber(DataType::kFloat32, ncclFloat32));
static_assert(IsNumber(DataType::kFloat64, ncclFloat64));
static_assert(IsNumber(DataType::kBfloat16, ncclBfloat16));
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 24, 0)
static_assert(IsNumber(DataType::kFloat8e4m3, ncclFloat8e4m3));
static_assert(IsNumber(DataType::kFloat8e5m2, ncclFloat8e5m2));
#endif

static_assert(IsNumber(RedOp::kSum, ncclSum));
static_assert(IsNumber(RedOp::kProd, ncclProd));
static_assert(IsNumber(RedOp::kMax, ncclMax));
static_assert(IsNumber(RedOp::kMin, ncclMin));
static_assert(IsNumber(RedOp::kAvg, ncclAvg));

static_assert(kUndefined == NCCL_CONFIG_UNDEF_INT);

// --- Structures: later versions may only add at the end ------------------------------------------

static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId));
static_assert(offsetof(Config, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(Config, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(Config, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(Config, cga_cluster_size) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(offsetof(Config, min_ctas) == offsetof(ncclConfig_t, minCTAs));
static_assert(offsetof(Config, max_ctas) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(Config, net_name) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(Config, split_share) == offsetof(ncclConfig_t, splitShare));
static_assert(sizeof(Config) <= sizeof(ncclConfig_t));

// --- Functions: as many parameters, each passed the same way -------------------------------------

template <class Own, class Theirs>
constexpr bool IsPassedAs() {
  if constexpr (std::is_pointer_v<Own> || std::is_pointer_v<Theirs>) {
    return std::is_pointer_v<Own> && std::is_pointer_v<Theirs>;
  } else if constexpr (std::is_class_v<Own>) {
    return std::is_same_v<Own, UniqueId> && std::is_same_v<Theirs, ncclUniqueId>;
  } else if constexpr (std::is_enum_v<Own>) {
    return std::is_enum_v<Theirs> && sizeof(Own) == sizeof(Theirs);
  } else {
    return std::is_same_v<Own, Theirs>;
  }
}

template <class Own, class Theirs>
struct Agree : std::false_type {};
template <class OwnResult, class... Own, class TheirResult, class... Theirs>
requires(sizeof...(Own) ==
         sizeof...(Theirs)) struct Agree<OwnResult (*)(Own...), TheirResult (*)(Theirs...)>
    : std::bool_constant<IsPassedAs<OwnResult, TheirResult>() &&
                         (IsPassedAs<Own, Theirs>() && ...)> {
};

#define HORA_AGREES(member, function) \
  static_assert(Agree<decltype(Api::member), decltype(&(function))>::value, #function)

HORA_AGREES(get_version, ncclGetVersion);
HORA_AGREES(get_unique_id, ncclGetUniqueId);
HORA_AGREES(init_rank_config, ncclCommInitRankConfig);
HORA_AGREES(finalize, ncclCommFinalize);
HORA_AGREES(destroy, ncclCommDestroy);
HORA_AGREES(abort, ncclCommAbort);
HORA_AGREES(get_async_error, ncclCommGetAsyncError);
HORA_AGREES(get_error_string, ncclGetErrorString);
HORA_AGREES(get_last_error, ncclGetLastError);
HORA_AGREES(group_start, ncclGroupStart);
HORA_AGREES(group_end, ncclGroupEnd);
HORA_AGREES(all_reduce, ncclAllReduce);
HORA_AGREES(reduce, ncclReduce);
HORA_AGREES(reduce_scatter, ncclReduceScatter);
HORA_AGREES(all_gather, ncclAllGather);
HORA_AGREES(broadcast, ncclBroadcast);
HORA_AGREES(send, ncclSend);
HORA_AGREES(recv, ncclRecv);
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 18, 0)
HORA_AGREES(split, ncclCommSplit);
#endif
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 19, 0)
HORA_AGREES(mem_alloc, ncclMemAlloc);
HORA_AGREES(mem_free, ncclMemFree);
HORA_AGREES(register_buffer, ncclCommRegister);
HORA_AGREES(deregister_buffer, ncclCommDeregister);
#endif
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
HORA_AGREES(shrink, ncclCommShrink);
#endif

#undef HORA_AGREES

// Of the header there is a macro only.
TEST(NcclApi, TheConfigurationHasTheMagicOfTheHeader) {
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  EXPECT_EQ(theirs.magic, kConfigMagic);
}

}  // namespace
}  // namespace hora::nccl

#endif  // HORA_HAS_NCCL_HEADER

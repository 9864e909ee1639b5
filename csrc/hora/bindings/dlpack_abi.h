// The part of DLPack's C ABI that hora uses: reading a tensor of any PyTorch version in 0.1 µs, and
// handing out memory as one. Layouts and numbers follow the DLPack 1.3 specification
// (https://dmlc.github.io/dlpack/latest/c_api.html); nothing here may be reordered.
#pragma once

#include <cstdint>

namespace hora::dlpack {

inline constexpr std::uint32_t kMajorVersion = 1;
inline constexpr const char* kExchangeCapsule = "dlpack_exchange_api";
inline constexpr const char* kTensorCapsule = "dltensor";

inline constexpr std::int32_t kCpu = 1;
inline constexpr std::int32_t kCuda = 2;

enum TypeCode : std::uint8_t {
  kInt = 0,
  kUInt = 1,
  kFloat = 2,
  kBFloat = 4,
  kComplex = 5,
  kBool = 6,
  kFloat8E4M3FN = 10,
  kFloat8E4M3FNUZ = 11,
  kFloat8E5M2 = 12,
  kFloat8E5M2FNUZ = 13,
  kFloat8E8M0FNU = 14,
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct DeviceId {
  std::int32_t type;
  std::int32_t index;
};

struct Tensor {
  void* data;
  DeviceId device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; may be null when ndim is 0
  std::uint64_t byte_offset;
};

// What a "dltensor" capsule points to; whoever consumes it calls `deleter`.
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor* self);
};

// What `type(tensor).__dlpack_c_exchange_api__` points to.
struct ExchangeApi {
  std::uint32_t major;
  std::uint32_t minor;
  ExchangeApi* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object,
                            Tensor* out);  // borrows; 0, or -1 with a Python error set
  // Of the calling thread: 0, or -1 with a Python error set. Null: the library has no streams.
  int (*current_work_stream)(std::int32_t device_type, std::int32_t device_index, void** out);
};

}  // namespace hora::dlpack

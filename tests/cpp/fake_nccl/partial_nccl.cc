// A library that says it is NCCL, and has none of its functions.
#include "hora/collectives/nccl/nccl_api.h"

extern "C" __attribute__((visibility("default"))) hora::nccl::Result ncclGetVersion(int* version);

hora::nccl::Result ncclGetVersion(int* version) {
  *version = 22809;
  return hora::nccl::Result::kSuccess;
}

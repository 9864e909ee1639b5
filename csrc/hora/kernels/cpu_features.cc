#include "hora/kernels/cpu_features.h"

#include <algorithm>
#include <atomic>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace hora {
namespace {

#if defined(__x86_64__)
// __builtin_cpu_supports of clang 14 does not know it.
bool HasF16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

CpuLevel Detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx2 && avx512) return CpuLevel::kAvx512;
  return avx2 ? CpuLevel::kAvx2 : CpuLevel::kScalar;
#elif defined(__aarch64__)
  return CpuLevel::kNeon;
#else
  return CpuLevel::kScalar;
#endif
}

std::atomic<CpuLevel>& Active() {
  static std::atomic<CpuLevel> active{DetectedCpuLevel()};
  return active;
}

}  // namespace

CpuLevel DetectedCpuLevel() {
  static const CpuLevel detected = Detect();
  return detected;
}

CpuLevel ActiveCpuLevel() { return Active().load(std::memory_order_relaxed); }

void SetCpuLevel(CpuLevel level) {
  // The levels are ordered, but each architecture knows some of them only.
#if defined(__x86_64__)
  if (level == CpuLevel::kNeon) level = CpuLevel::kScalar;
#endif
  Active().store(std::min(level, DetectedCpuLevel()), std::memory_order_relaxed);
}

std::string_view ToString(CpuLevel level) {
  switch (level) {
    case CpuLevel::kScalar:
      return "scalar";
    case CpuLevel::kNeon:
      return "neon";
    case CpuLevel::kAvx2:
      return "avx2";
    case CpuLevel::kAvx512:
      return "avx512";
  }
  return "unknown";
}

}  // namespace hora

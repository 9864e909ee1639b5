#pragma once

#include <cstdint>
#include <string_view>

namespace hora {

enum class CpuLevel : std::uint8_t { kScalar, kNeon, kAvx2, kAvx512 };

// The best level that this CPU and this build have.
CpuLevel DetectedCpuLevel();

// The level in use (initially the detected one). Lowering it is for tests and benchmarks:
// process-wide, takes effect on the next kernel call. Asking for more than the CPU has keeps the
// detected level.
CpuLevel ActiveCpuLevel();
void SetCpuLevel(CpuLevel level);

std::string_view ToString(CpuLevel level);  // "scalar", "neon", "avx2", "avx512"

}  // namespace hora

#include "hora/kernels/cpu_features.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(CpuFeatures, StartAtTheDetectedLevel) { EXPECT_EQ(ActiveCpuLevel(), DetectedCpuLevel()); }

TEST(CpuFeatures, CanBeLoweredAndRaisedAgain) {
  SetCpuLevel(CpuLevel::kScalar);
  EXPECT_EQ(ActiveCpuLevel(), CpuLevel::kScalar);
  SetCpuLevel(CpuLevel::kAvx512);
  EXPECT_EQ(ActiveCpuLevel(), DetectedCpuLevel());
}

TEST(CpuFeatures, NeverLeaveTheArchitecture) {
  for (const CpuLevel level :
       {CpuLevel::kScalar, CpuLevel::kNeon, CpuLevel::kAvx2, CpuLevel::kAvx512}) {
    SetCpuLevel(level);
    EXPECT_LE(ActiveCpuLevel(), DetectedCpuLevel());
#if defined(__x86_64__)
    EXPECT_NE(ActiveCpuLevel(), CpuLevel::kNeon);
#endif
  }
  SetCpuLevel(DetectedCpuLevel());
}

TEST(CpuFeatures, HaveNames) {
  EXPECT_EQ(ToString(CpuLevel::kScalar), "scalar");
  EXPECT_EQ(ToString(CpuLevel::kNeon), "neon");
  EXPECT_EQ(ToString(CpuLevel::kAvx2), "avx2");
  EXPECT_EQ(ToString(CpuLevel::kAvx512), "avx512");
}

}  // namespace
}  // namespace hora

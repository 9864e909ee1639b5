// Quantised blocks have the bits that the CPU gives them.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "gpu/gpu_fixture.h"
#include "hora/kernels/quantise.h"

namespace hora {
namespace {

class QuantiseGpuTest : public GpuTest {
 protected:
  // Random bits, so with NaNs and subnormals; most blocks are made finite.
  std::vector<std::byte> Source(DType dtype, std::size_t elements) {
    std::vector<std::byte> bytes(elements * SizeOf(dtype));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_());
    const std::byte exponent{dtype == DType::kFloat16 ? std::uint8_t{0x7B} : std::uint8_t{0x7E}};
    for (std::size_t i = 0; i < elements; ++i) {
      if (i / 256 % 8 == 3) continue;
      std::byte& top = bytes[(i + 1) * SizeOf(dtype) - 1];
      top = (top & std::byte{0x80}) | std::min(top & std::byte{0x7F}, exponent);
    }
    return bytes;
  }

  void Check(const QuantisedFormat& format, DType dtype, std::size_t elements, std::size_t shift) {
    const hora_cuda* const functions = CudaFunctions();
    ASSERT_NE(functions, nullptr);
    const hora_cuda_blocks blocks{.dtype = static_cast<std::uint8_t>(dtype),
                                  .bits = static_cast<std::uint8_t>(format.bits),
                                  .block = static_cast<std::uint32_t>(format.block)};
    const std::vector<std::byte> source = Source(dtype, elements);
    std::vector<std::byte> packed(QuantisedBytes(format, elements)), back(source.size());
    Quantise(format, dtype, source.data(), packed.data(), elements);
    Dequantise(format, dtype, packed.data(), back.data(), elements);

    std::vector<std::byte> shifted(shift);
    shifted.insert(shifted.end(), source.begin(), source.end());
    std::byte* const from = Upload(shifted) + shift;
    std::byte* const stored = Upload(std::vector<std::byte>(packed.size() + shift)) + shift;
    std::byte* const to = Upload(std::vector<std::byte>(source.size() + shift)) + shift;
    hora_cuda_error error{};
    void* const native = stream().native;
    ASSERT_EQ(functions->quantise(from, stored, elements, &blocks, native, &error), 0)
        << error.text;
    ASSERT_EQ(functions->dequantise(stored, to, elements, &blocks, native, &error), 0)
        << error.text;
    ASSERT_EQ(Download(stored, packed.size()), packed)
        << format.bits << " bits, " << ToString(dtype) << ", " << elements;
    ASSERT_EQ(Download(to, back.size()), back)
        << format.bits << " bits, " << ToString(dtype) << ", " << elements;
  }

  std::mt19937 random_{5};
};

TEST_F(QuantiseGpuTest, HasTheBitsOfTheCpu) {
  for (const QuantisedFormat& format : {kInt8Blocks, kInt4Blocks}) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      for (const std::size_t elements :
           {1u, 7u, 8u, 63u, 64u, 65u, 255u, 257u, 4096u, 1'000'003u}) {
        for (const std::size_t shift : {0u, 1u, 4u}) Check(format, dtype, elements, shift);
      }
    }
  }
}

TEST_F(QuantiseGpuTest, RefusesOtherBlocks) {
  const hora_cuda_blocks blocks{.dtype = 0, .bits = 8, .block = 100};
  hora_cuda_error error{};
  EXPECT_NE(CudaFunctions()->quantise(nullptr, nullptr, 1, &blocks, stream().native, &error), 0);
  EXPECT_NE(std::string(error.text).find("256"), std::string::npos);
}

}  // namespace
}  // namespace hora

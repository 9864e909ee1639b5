// Batches of copies against the CPU's kernels.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "gpu/gpu_fixture.h"
#include "simulated_device/simulated_device.h"

namespace hora {
namespace {

struct Piece {
  std::size_t from, to;  // bytes
  std::uint64_t elements;
};

class CopyManyTest : public GpuTest {
 protected:
  // Random bits, as they are for whatever is not a float, else of ordinary numbers.
  std::vector<std::byte> Source(DType dtype, std::size_t elements, bool any_bits) {
    std::vector<std::byte> bytes(elements * SizeOf(dtype));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_());
    if (any_bits || !IsFloatingPoint(dtype)) return bytes;
    std::vector<double> values(elements);
    std::normal_distribution<double> normal(0.0, 100.0);
    for (double& value : values) value = normal(random_);
    const PieceCopy piece{reinterpret_cast<const std::byte*>(values.data()), bytes.data(),
                          elements};
    OnCpu({&piece, 1}, {.from = DType::kFloat64, .to = dtype});
    return bytes;
  }

  // The same on a device of the host's.
  static void OnCpu(std::span<const PieceCopy> pieces, const ElementCopy& element) {
    const auto cpu = std::make_shared<SimulatedDevice>();
    auto stream = OwnedStream::Create(cpu, 0, false);
    const auto events = std::make_shared<EventPool>(cpu, 0);
    const auto event = events->Take();
    ASSERT_TRUE(stream && event);
    Expect(cpu->CopyMany(pieces, element, stream->get()));
    Expect(cpu->Record(**event, stream->get()));
    Expect(cpu->Await(**event, Soon()));
  }

  void Check(const std::vector<Piece>& pieces, const ElementCopy& element, bool any_bits) {
    std::size_t from_bytes = 0, to_bytes = 0;
    for (const Piece& piece : pieces) {
      from_bytes = std::max(from_bytes, piece.from + piece.elements * SizeOf(element.from));
      to_bytes = std::max(to_bytes, piece.to + piece.elements * SizeOf(element.to));
    }
    const std::vector<std::byte> source =
        Source(element.from, (from_bytes + 15) / SizeOf(element.from) + 1, any_bits);
    std::vector<std::byte> expected(to_bytes + 64, std::byte{0xCD});
    std::byte* const from = Upload(source);
    std::byte* const to = Upload(expected);
    std::vector<PieceCopy> on_gpu, on_cpu;
    for (const Piece& piece : pieces) {
      on_gpu.push_back({from + piece.from, to + piece.to, piece.elements});
      on_cpu.push_back({source.data() + piece.from, expected.data() + piece.to, piece.elements});
    }
    OnCpu(on_cpu, element);
    Expect(gpu_->CopyMany(on_gpu, element, stream()));
    const std::vector<std::byte> result = Download(to, expected.size());
    const auto differ = std::mismatch(result.begin(), result.end(), expected.begin());
    ASSERT_TRUE(differ.first == result.end())
        << ToString(element.from) << " to " << ToString(element.to) << " · " << element.scale
        << " / " << element.divisor << ": byte " << differ.first - result.begin();
  }

  // Pieces one after the other, with a gap here and there, so that addresses are of all kinds.
  std::vector<Piece> Awkward(DType from, DType to, std::size_t count) {
    std::vector<Piece> pieces;
    std::size_t from_at = 0, to_at = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t elements = random_() % 10 == 0 ? random_() % 30'000 : random_() % 70;
      pieces.push_back({from_at, to_at, elements});
      from_at += (elements + random_() % 3) * SizeOf(from);
      to_at += (elements + random_() % 3) * SizeOf(to);
    }
    return pieces;
  }

  std::mt19937 random_{99};
};

constexpr DType kFloats[] = {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64};

TEST_F(CopyManyTest, CopiesEveryType) {
  for (int dtype = 0; dtype < kDTypeCount; ++dtype) {
    const auto type = static_cast<DType>(dtype);
    Check(Awkward(type, type, 100), {.from = type, .to = type}, true);
  }
}

TEST_F(CopyManyTest, CastsAndScalesAllFloats) {
  for (const DType from : kFloats) {
    for (const DType to : kFloats) {
      for (const double scale : {1.0, 0.3, -2.0}) {
        for (const int divisor : {1, 3}) {
          const ElementCopy element{.from = from, .to = to, .scale = scale, .divisor = divisor};
          Check(Awkward(from, to, 60), element, from == to);
        }
      }
    }
  }
}

TEST_F(CopyManyTest, ScalesEveryReducibleType) {
  for (int dtype = 0; dtype < kDTypeCount; ++dtype) {
    const auto type = static_cast<DType>(dtype);
    if (!IsReducible(type) || IsFloatingPoint(type)) continue;
    for (const double scale : {1.0, 0.3, -2.0, 1e30}) {
      for (const int divisor : {1, 3}) {
        if (type == DType::kBool && divisor != 1) continue;
        const ElementCopy element{.from = type, .to = type, .scale = scale, .divisor = divisor};
        Check(Awkward(type, type, 60), element, true);
      }
    }
  }
}

TEST_F(CopyManyTest, CopiesAtAnyAddress) {
  for (std::size_t from = 0; from < 16; ++from) {
    for (std::size_t to = 0; to < 16; ++to) {
      Check({{from, to, 40'000}}, {.from = DType::kUInt8, .to = DType::kUInt8}, true);
    }
  }
  for (std::size_t shift = 0; shift < 8; ++shift) {  // also between elements
    Check({{shift, 0, 5000}}, {.from = DType::kFloat32, .to = DType::kFloat16}, false);
    Check({{0, shift, 5000}}, {.from = DType::kFloat16, .to = DType::kFloat32}, false);
  }
}

TEST_F(CopyManyTest, CopiesThousandsOfPieces) {
  for (const std::size_t count : {0u, 1u, 63u, 64u, 65u, 1023u, 1024u, 1025u, 5000u}) {
    Check(Awkward(DType::kFloat32, DType::kFloat32, count), {}, true);
    Check(Awkward(DType::kFloat32, DType::kBFloat16, count),
          {.from = DType::kFloat32, .to = DType::kBFloat16}, false);
  }
}

TEST_F(CopyManyTest, CopiesMoreThanFourGigabytes) {
  constexpr std::uint64_t kBytes = (std::uint64_t{1} << 32) + 12'345;
  DeviceBuffer from(gpu_, 0), to(gpu_, 0);
  const auto source = from.Reserve(kBytes), destination = to.Reserve(kBytes);
  if (!source || !destination) GTEST_SKIP() << "not that much memory";
  const std::byte zero{0}, one{1};
  Expect(gpu_->Fill(source->data(), {&one, 1}, kBytes, stream()));
  Expect(gpu_->Fill(destination->data(), {&zero, 1}, kBytes, stream()));
  const PieceCopy piece{source->data(), destination->data(), kBytes};
  Expect(gpu_->CopyMany({&piece, 1}, {.from = DType::kInt8, .to = DType::kInt8}, stream()));
  EXPECT_EQ(Download(destination->data() + kBytes - 20'000, 20'000),
            std::vector<std::byte>(20'000, one));
}

TEST_F(CopyManyTest, ScalesInPlace) {
  std::vector<float> values(100'001, 3.0f);
  std::vector<std::byte> bytes(values.size() * 4);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  std::byte* const memory = Upload(bytes);
  const PieceCopy piece{memory, memory, values.size()};
  Expect(gpu_->CopyMany({&piece, 1}, {.scale = 2.0}, stream()));
  std::fill(values.begin(), values.end(), 6.0f);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  EXPECT_EQ(Download(memory, bytes.size()), bytes);
}

TEST_F(CopyManyTest, RefusesCastsOfIntegers) {
  std::byte* const memory = Upload(std::vector<std::byte>(100));
  const PieceCopy piece{memory, memory, 1};
  const Status status =
      gpu_->CopyMany({&piece, 1}, {.from = DType::kInt32, .to = DType::kFloat32}, stream());
  EXPECT_EQ(status.code(), StatusCode::kResource);
}

TEST_F(CopyManyTest, FillsAnyAddress) {
  for (const std::size_t element_bytes : {1u, 2u, 4u, 8u, 16u}) {
    std::vector<std::byte> element(element_bytes);
    for (std::byte& byte : element) byte = static_cast<std::byte>(random_());
    for (std::size_t shift = 0; shift < 16; ++shift) {
      std::vector<std::byte> expected(element_bytes * 5000 + 64);
      std::byte* const memory = Upload(expected);
      Expect(gpu_->Fill(memory + shift, element, 5000, stream()));
      for (std::size_t i = 0; i < element_bytes * 5000; ++i) {
        expected[shift + i] = element[i % element_bytes];
      }
      ASSERT_EQ(Download(memory, expected.size()), expected);
    }
  }
}

}  // namespace
}  // namespace hora

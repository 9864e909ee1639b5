// Allreduce in memory that all ranks see: as here, where they are threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <vector>

#include "collectives/operands.h"
#include "collectives/shm_group.h"
#include "hora/collectives/shm/in_place.h"

namespace hora {
namespace {

constexpr std::size_t kPage = 4096;

// Equal slices side by side, and a list of pieces that has the same places in each.
class SharedList {
 public:
  struct Place {
    std::size_t offset;
    std::size_t bytes;
  };

  SharedList(int ranks, std::vector<Place> places) : ranks_(ranks), places_(std::move(places)) {
    std::size_t end = 0;
    for (const Place& place : places_) end = std::max(end, place.offset + place.bytes);
    stride_ = (end + kPage) / kPage * kPage;
    memory_.resize(static_cast<std::size_t>(ranks) * stride_ + kPage, std::byte{0xee});
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    first_ = memory_.data() + (kPage - address % kPage) % kPage;
  }

  std::size_t bytes() const {
    std::size_t total = 0;
    for (const Place& place : places_) total += place.bytes;
    return total;
  }

  void Write(int rank, const Bytes& values) {
    std::size_t at = 0;
    for (const Place& place : places_) {
      if (place.bytes > 0) std::memcpy(Slice(rank) + place.offset, &values[at], place.bytes);
      at += place.bytes;
    }
  }

  Bytes Read(int rank) {
    Bytes values;
    for (const Place& place : places_) {
      std::byte* const from = Slice(rank) + place.offset;
      values.insert(values.end(), from, from + place.bytes);
    }
    return values;
  }

  ByteStream Stream(int rank) {
    std::vector<std::span<std::byte>> segments;
    for (const Place& p : places_) segments.emplace_back(Slice(rank) + p.offset, p.bytes);
    return ByteStream(std::move(segments));
  }

  InPlacePlan Plan(std::uint64_t digest) {
    InPlacePlan plan{.digest = digest, .bytes = bytes()};
    for (const Place& p : places_) plan.ranges.push_back({first_ + p.offset, stride_, p.bytes});
    return plan;
  }

  // What lies between the pieces and around them.
  bool NothingElseChanged() {
    for (int rank = 0; rank < ranks_; ++rank) {
      std::vector<bool> in_a_piece(stride_);
      for (const Place& p : places_) {
        for (std::size_t i = 0; i < p.bytes; ++i) in_a_piece[p.offset + i] = true;
      }
      for (std::size_t i = 0; i < stride_; ++i) {
        if (!in_a_piece[i] && Slice(rank)[i] != std::byte{0xee}) return false;
      }
    }
    return true;
  }

 private:
  std::byte* Slice(int rank) { return first_ + static_cast<std::size_t>(rank) * stride_; }

  int ranks_;
  std::vector<Place> places_;
  std::size_t stride_ = 0;
  Bytes memory_;
  std::byte* first_ = nullptr;
};

std::vector<SharedList::Place> RandomPlaces(std::size_t element, Random& random) {
  std::vector<SharedList::Place> places;
  std::size_t next = 0;
  const std::size_t count = 1 + random() % 6;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t gap = random() % 3 == 0 ? 0 : random() % 40;
    const std::size_t elements = random() % 4 == 0 ? random() % 3 : random() % 20'000;
    places.push_back({next + gap * element, elements * element});
    next = places.back().offset + places.back().bytes;
  }
  return places;
}

class InPlace : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Sizes, InPlace, ::testing::Values(2, 3, 4, 5),
                         [](const auto& test) { return std::to_string(test.param) + "ranks"; });

constexpr DType kReduced[] = {DType::kUInt8,     DType::kInt16,     DType::kInt32,
                              DType::kInt64,     DType::kFloat16,   DType::kBFloat16,
                              DType::kFloat32,   DType::kFloat64,   DType::kBool,
                              DType::kComplex64, DType::kComplex128};

TEST_P(InPlace, HasTheBitsOfTheReductionForEveryListTypeAndOp) {
  const int size = GetParam();
  ShmGroup group(size, 1u << 16);
  Random random(static_cast<std::uint64_t>(size));
  for (const DType dtype : kReduced) {
    for (const ReduceOp op : kElementwiseOps) {
      if (!IsReducible(dtype, op)) continue;
      const bool scaled = op != ReduceOp::kMin && dtype == DType::kFloat32;
      const OpParams params = scaled ? Params(dtype, op, 0.5, 1.25) : Params(dtype, op);
      SharedList list(size, RandomPlaces(SizeOf(dtype), random));
      const auto operands =
          RandomOperands(dtype, list.bytes() / SizeOf(dtype), size, random() % 1000);
      for (int rank = 0; rank < size; ++rank) list.Write(rank, operands[rank]);
      group.RunOk([&](int rank, ShmBackend& backend) {
        InPlacePlan plan = list.Plan(42);
        CollectiveCall call = AllreduceCall(params, size, list.Stream(rank), list.Stream(rank));
        call.in_place = &plan;
        const Status status = backend.Execute(call);
        EXPECT_TRUE(plan.done);
        return status;
      });
      const Bytes expected = Expected(params, operands, size);
      for (int rank = 0; rank < size; ++rank) {
        ASSERT_EQ(list.Read(rank), expected) << ToString(dtype) << " " << ToString(op);
      }
      ASSERT_TRUE(list.NothingElseChanged());
    }
  }
}

TEST_P(InPlace, RanksThatDisagreeUseTheWindows) {
  const int size = GetParam();
  ShmGroup group(size, 1u << 14);
  const OpParams params = Params(DType::kFloat32, ReduceOp::kSum);
  Random random(7);
  for (int round = 0; round < 20; ++round) {
    SharedList list(size, RandomPlaces(4, random));
    const auto operands = RandomOperands(DType::kFloat32, list.bytes() / 4, size, round);
    for (int rank = 0; rank < size; ++rank) list.Write(rank, operands[rank]);
    // Nobody, one rank alone, all but one, and all in different ways.
    const auto digest = [&](int rank) -> std::uint64_t {
      if (round % 4 == 0) return 0;
      if (round % 4 == 1) return rank == round % size ? 9 : 0;
      if (round % 4 == 2) return rank == round % size ? 0 : 9;
      return 1 + static_cast<std::uint64_t>(rank);
    };
    group.RunOk([&](int rank, ShmBackend& backend) {
      InPlacePlan plan = list.Plan(digest(rank));
      CollectiveCall call = AllreduceCall(params, size, list.Stream(rank), list.Stream(rank));
      call.in_place = &plan;
      const Status status = backend.Execute(call);
      EXPECT_FALSE(plan.done);
      return status;
    });
    const Bytes expected = Expected(params, operands, size);
    for (int rank = 0; rank < size; ++rank) ASSERT_EQ(list.Read(rank), expected);
    ASSERT_TRUE(list.NothingElseChanged());
  }
}

// Tensors in symmetric memory and elsewhere in one batch, and ordinary calls between such calls.
TEST_P(InPlace, WhatLiesElsewhereGoesThroughTheWindows) {
  const int size = GetParam();
  ShmGroup group(size, 1u << 14);
  const OpParams params = Params(DType::kInt32, ReduceOp::kSum);
  Random random(3);
  for (int round = 0; round < 20; ++round) {
    SharedList list(size, RandomPlaces(4, random));
    const std::size_t others = (1 + random() % 9'000) * 4;
    const auto shared = RandomOperands(DType::kInt32, list.bytes() / 4, size, round);
    const auto own = RandomOperands(DType::kInt32, others / 4, size, 100 + round);
    for (int rank = 0; rank < size; ++rank) list.Write(rank, shared[rank]);
    std::vector<Bytes> results(static_cast<std::size_t>(size), Bytes(others));
    group.RunOk([&](int rank, ShmBackend& backend) {
      Pieces input(own[rank], 3, 4, static_cast<std::uint64_t>(round));
      const auto output = [&] { return ByteStream({std::span<std::byte>(results[rank])}); };
      // Streams over everything in any order: they only matter when ranks disagree.
      CollectiveCall call = AllreduceCall(params, size, input.Stream(), output());
      InPlacePlan plan = list.Plan(5);
      plan.other_inputs = input.Stream();
      plan.other_outputs = output();
      call.in_place = &plan;
      if (Status status = backend.Execute(call); !status.ok()) return status;
      EXPECT_TRUE(plan.done);
      CollectiveCall plain = AllreduceCall(params, size, output(), output());
      return backend.Execute(plain);
    });
    const Bytes once = Expected(params, own, size);
    const Bytes twice =
        Expected(params, std::vector<Bytes>(static_cast<std::size_t>(size), once), size);
    for (int rank = 0; rank < size; ++rank) {
      ASSERT_EQ(list.Read(rank), Expected(params, shared, size));
      ASSERT_EQ(results[rank], twice);
    }
  }
}

}  // namespace
}  // namespace hora

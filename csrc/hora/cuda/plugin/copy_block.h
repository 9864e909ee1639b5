// What each thread of a block does in a batch of copies. Runs on a GPU, and thread by thread in
// tests on a CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hora/cuda/plugin/elements.h"
#include "hora/cuda/plugin/piece_table.h"

#ifdef __CUDACC__
#define HORA_UNROLL _Pragma("unroll")
#else
#define HORA_UNROLL
#endif

namespace hora {

struct alignas(16) Word16 {
  std::uint32_t x, y, z, w;
};

// What one thread works at: its number in the block, and the block's piece and part of that.
struct ThreadPart {
  const std::byte* from;
  std::byte* to;
  PieceSplit split;
  BlockRange range;
  std::uint32_t thread;
};

template <class Word>
HORA_DEVICE void CopyWords(const ThreadPart& part) {
  const auto* const from = reinterpret_cast<const Word*>(part.from + part.split.head);
  auto* const to = reinterpret_cast<Word*>(part.to + part.split.head);
  constexpr std::uint32_t kStep = kThreadsPerBlock;
  std::uint64_t at = part.range.first + part.thread;
  for (; at + (kVectorsInFlight - 1) * kStep < part.range.last; at += kVectorsInFlight * kStep) {
    Word words[kVectorsInFlight];
    HORA_UNROLL
    for (std::uint32_t k = 0; k < kVectorsInFlight; ++k) words[k] = from[at + k * kStep];
    HORA_UNROLL
    for (std::uint32_t k = 0; k < kVectorsInFlight; ++k) to[at + k * kStep] = words[k];
  }
  for (; at < part.range.last; at += kStep) to[at] = from[at];
}

// A piece of bytes, see SplitBytes.
HORA_DEVICE inline void CopyPart(const ThreadPart& part) {
  const PieceSplit& split = part.split;
  if (part.range.has_head && part.thread < split.head) {
    part.to[part.thread] = part.from[part.thread];
  }
  switch (split.width) {
    case 16:
      CopyWords<Word16>(part);
      break;
    case 8:
      CopyWords<std::uint64_t>(part);
      break;
    case 4:
      CopyWords<std::uint32_t>(part);
      break;
    case 2:
      CopyWords<std::uint16_t>(part);
      break;
    default:
      CopyWords<std::uint8_t>(part);
  }
  if (part.range.has_tail && part.thread < split.tail) {
    const std::uint64_t at = split.head + split.vectors * split.width + part.thread;
    part.to[at] = part.from[at];
  }
}

// One element at any address.
template <class T>
HORA_DEVICE T LoadElement(const std::byte* from) {
  if (reinterpret_cast<std::uintptr_t>(from) % sizeof(T) == 0) {
    return *reinterpret_cast<const T*>(from);
  }
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
HORA_DEVICE void StoreElement(T value, std::byte* to) {
  if (reinterpret_cast<std::uintptr_t>(to) % sizeof(T) == 0) {
    *reinterpret_cast<T*>(to) = value;
  } else {
    std::memcpy(to, &value, sizeof(T));
  }
}

template <class Operation>
HORA_DEVICE void TransformElement(const Operation& operation, const ThreadPart& part,
                                  std::uint64_t at) {
  using From = typename Operation::From;
  using To = typename Operation::To;
  StoreElement<To>(operation(LoadElement<From>(part.from + at * sizeof(From))),
                   part.to + at * sizeof(To));
}

// As many elements as make 16 bytes of the smaller type.
template <class Operation>
struct TransformVector {
  using From = typename Operation::From;
  using To = typename Operation::To;
  static constexpr std::uint32_t kWidth =
      kVectorBytes / (sizeof(From) < sizeof(To) ? sizeof(From) : sizeof(To));
  static constexpr std::uint32_t kInFlight = VectorsInFlight(sizeof(From), sizeof(To));
  struct Input {
    Word16 words[kWidth * sizeof(From) / 16];
  };
  struct Output {
    Word16 words[kWidth * sizeof(To) / 16];
  };

  HORA_DEVICE static Output Apply(const Operation& operation, Input input) {
    From x[kWidth];
    To y[kWidth];
    std::memcpy(x, &input, sizeof(x));
    HORA_UNROLL
    for (std::uint32_t i = 0; i < kWidth; ++i) y[i] = operation(x[i]);
    Output output;
    std::memcpy(&output, y, sizeof(y));
    return output;
  }
};

template <class Operation>
HORA_DEVICE void TransformVectors(const Operation& operation, const ThreadPart& part) {
  using Vector = TransformVector<Operation>;
  using Input = typename Vector::Input;
  using Output = typename Vector::Output;
  constexpr std::uint32_t kInFlight = Vector::kInFlight;
  constexpr std::uint32_t kStep = kThreadsPerBlock;
  const auto* const from = reinterpret_cast<const Input*>(
      part.from + part.split.head * sizeof(typename Operation::From));
  auto* const to =
      reinterpret_cast<Output*>(part.to + part.split.head * sizeof(typename Operation::To));
  std::uint64_t at = part.range.first + part.thread;
  for (; at + (kInFlight - 1) * kStep < part.range.last; at += kInFlight * kStep) {
    Input inputs[kInFlight];
    HORA_UNROLL
    for (std::uint32_t k = 0; k < kInFlight; ++k) inputs[k] = from[at + k * kStep];
    HORA_UNROLL
    for (std::uint32_t k = 0; k < kInFlight; ++k) {
      to[at + k * kStep] = Vector::Apply(operation, inputs[k]);
    }
  }
  for (; at < part.range.last; at += kStep) to[at] = Vector::Apply(operation, from[at]);
}

// A piece of elements, see SplitElements.
template <class Operation>
HORA_DEVICE void TransformPart(const Operation& operation, const ThreadPart& part) {
  const PieceSplit& split = part.split;
  if (part.range.has_head && part.thread < split.head) {
    TransformElement(operation, part, part.thread);
  }
  if (split.width > 1) {
    TransformVectors(operation, part);
  } else {
    std::uint64_t at = part.range.first + part.thread;
    for (; at < part.range.last; at += kThreadsPerBlock) TransformElement(operation, part, at);
  }
  if (part.range.has_tail && part.thread < split.tail) {
    TransformElement(operation, part, split.head + split.vectors * split.width + part.thread);
  }
}

// What block `block` of a launch has of the batch, and thread `thread` of that. `Split` knows how
// pieces are cut: of SplitBytes or SplitElements.
template <class Split, int capacity>
HORA_DEVICE ThreadPart PartOf(const PieceTable<capacity>& table, std::uint32_t block,
                              std::uint32_t thread) {
  const std::uint32_t piece = table.PieceAt(block);
  ThreadPart part{table.from[piece], table.to[piece], {}, {}, thread};
  part.split = Split::Of(part.from, part.to, table.elements[piece]);
  part.range = RangeOf(part.split, Split::kPerBlock, block - table.first_block[piece]);
  return part;
}

struct ByteSplit {
  static constexpr std::uint32_t kPerBlock = ElementsPerBlock(1, 1);
  HORA_DEVICE static PieceSplit Of(const std::byte* from, std::byte* to, std::uint64_t bytes) {
    return SplitBytes(reinterpret_cast<std::uintptr_t>(from), reinterpret_cast<std::uintptr_t>(to),
                      bytes);
  }
};

template <class Operation>
struct ElementSplit {
  static constexpr std::uint32_t kFrom = sizeof(typename Operation::From);
  static constexpr std::uint32_t kTo = sizeof(typename Operation::To);
  static constexpr std::uint32_t kPerBlock = ElementsPerBlock(kFrom, kTo);
  HORA_DEVICE static PieceSplit Of(const std::byte* from, std::byte* to, std::uint64_t elements) {
    return SplitElements(reinterpret_cast<std::uintptr_t>(from), kFrom,
                         reinterpret_cast<std::uintptr_t>(to), kTo, elements);
  }
};

}  // namespace hora

// What both ends of an edge accept; a message beyond it is refused before it is sent or believed.
#pragma once

#include <cstddef>

namespace hora {

inline constexpr std::size_t kMaxFrameBytes = 64u << 20;  // of one encoded message
inline constexpr std::size_t kMaxNameBytes = 4096;        // of a tensor
inline constexpr std::size_t kMaxMessageBytes = 16384;    // of a Status; longer ones are cut
inline constexpr std::size_t kMaxDimensions = 64;         // of a shape
inline constexpr std::size_t kMaxSetWords = 16384;        // of a rank or slot set: 2^20 members
inline constexpr std::size_t kMaxGroupTensors = 65536;    // of a grouped operation
inline constexpr std::size_t kMaxRows = 1u << 21;         // numbers of rows of one allgather

}  // namespace hora

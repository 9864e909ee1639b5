// CRC-32C (Castagnoli), as iSCSI (RFC 3720) and ext4 use it: finds accidents, not attacks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace hora {

// Of `bytes`; with `previous`, the checksum of what went before, of all of it together. Any thread.
std::uint32_t Crc32c(std::span<const std::byte> bytes, std::uint32_t previous = 0);

}  // namespace hora

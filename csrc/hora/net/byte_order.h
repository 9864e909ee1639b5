// Numbers in messages: little-endian, wherever they lie.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <span>

namespace hora {

template <std::integral Number>
void StoreLittle(std::span<std::byte> at, Number number) {
  static_assert(std::endian::native == std::endian::little, "swap the bytes here");
  std::memcpy(at.first(sizeof(number)).data(), &number, sizeof(number));
}

template <std::integral Number>
Number LoadLittle(std::span<const std::byte> at) {
  static_assert(std::endian::native == std::endian::little, "swap the bytes here");
  Number number{};
  std::memcpy(&number, at.first(sizeof(number)).data(), sizeof(number));
  return number;
}

}  // namespace hora

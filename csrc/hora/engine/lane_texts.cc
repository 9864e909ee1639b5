#include "hora/engine/lane_texts.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "hora/base/format.h"

namespace hora {

// Everybody's place has the same size: the length, then the text.
Result<std::vector<std::string>> ExchangeOnLane(CollectiveBackend& backend, int rank, int size,
                                                std::string_view mine, std::size_t most) {
  const auto ranks = static_cast<std::size_t>(size);
  const std::size_t place = sizeof(std::uint32_t) + most;
  std::vector<std::byte> own(place);
  std::vector<std::byte> all(place * ranks);
  const auto length = static_cast<std::uint32_t>(std::min(mine.size(), most));
  std::memcpy(own.data(), &length, sizeof(length));
  if (length != 0) std::memcpy(own.data() + sizeof(length), mine.data(), length);

  CollectiveCall call{
      .params = {.kind = OpKind::kAllgather, .dtype = DType::kUInt8, .shape = Shape{0}},
      .size = size};
  call.bytes_per_rank.assign(ranks, place);
  call.inputs.emplace_back(std::vector{std::span(own)});
  for (std::size_t source = 0; source < ranks; ++source) {
    call.outputs.emplace_back(std::vector{std::span(all).subspan(source * place, place)});
  }
  if (Status status = backend.Execute(call); !status.ok()) return Fail(std::move(status));

  std::vector<std::string> texts;
  for (std::size_t source = 0; source < ranks; ++source) {
    const std::byte* const from = all.data() + source * place;
    std::uint32_t said = 0;
    std::memcpy(&said, from, sizeof(said));
    if (said > most) {
      return Fail(Error(StatusCode::kInternal, "rank {} got a text of {} bytes from place {}", rank,
                        said, source));
    }
    texts.emplace_back(reinterpret_cast<const char*>(from) + sizeof(said), said);
  }
  return texts;
}

}  // namespace hora

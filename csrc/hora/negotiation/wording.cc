#include "hora/negotiation/wording.h"

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr std::size_t kMaxNameText = 200;
constexpr std::size_t kMaxRanksText = 96;

}  // namespace

std::string Shortened(std::string_view text, std::size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  std::size_t end = max_bytes;
  // Not in the middle of a UTF-8 character.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "…";
}

std::string Quoted(std::string_view name) {
  return fmt::format("'{}'", Shortened(name, kMaxNameText));
}

std::string OpText(OpKind kind, std::string_view name) {
  return fmt::format("{} {}", ToString(kind), Quoted(name));
}

std::string RanksText(const RankSet& ranks) {
  const int count = ranks.count();
  const std::string text = ranks.ToString();
  if (text.size() <= kMaxRanksText)
    return fmt::format("{} {}", count == 1 ? "rank" : "ranks", text);
  const std::size_t end = text.rfind(',', kMaxRanksText);
  return fmt::format("ranks {}, … ({} ranks)", text.substr(0, end), count);
}

std::string RanksText(const RankSet& places, const RankNames& names) {
  if (names.is_global()) return RanksText(places);
  RankSet named;
  for (const int place : places.ranks()) named.Add(RankName(place, names));
  return RanksText(named);
}

int RankName(int place, const RankNames& names) {
  const auto count = names.global_ranks().size();
  return place >= 0 && static_cast<std::size_t>(place) < count ? names.Of(place) : place;
}

}  // namespace hora

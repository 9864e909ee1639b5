#include "hora/engine/device_choice.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "hora/base/format.h"
#include "hora/collectives/nccl/nccl_library.h"
#include "hora/negotiation/wording.h"

namespace hora {
namespace {

// So that five fields and the ends of their lines fit.
constexpr std::size_t kMostOfText = 380;
constexpr std::size_t kMostOfWord = 100;

// Of one line, and cut.
std::string Line(std::string text, std::size_t most) {
  std::ranges::replace(text, '\n', ' ');
  return Shortened(text, most);
}

std::string RankText(int place, const RankNames& names) {
  return fmt::format("rank {}", names.Of(place));
}

// The ranks with each value, in the order of the first of them.
template <class ValueOf>
std::vector<std::pair<std::string, RankSet>> Groups(std::span<const DeviceCard> cards,
                                                    ValueOf value_of) {
  std::vector<std::pair<std::string, RankSet>> groups;
  for (std::size_t place = 0; place < cards.size(); ++place) {
    const std::string value = value_of(cards[place]);
    auto found = std::ranges::find(groups, value, [](const auto& group) { return group.first; });
    if (found == groups.end()) found = groups.insert(found, {value, {}});
    found->second.Add(static_cast<int>(place));
  }
  return groups;
}

// "nccl on rank 0, staged on ranks 1-2"
std::string GroupsText(const std::vector<std::pair<std::string, RankSet>>& groups,
                       const RankNames& names) {
  std::string text;
  for (const auto& [value, places] : groups) {
    text += fmt::format("{}{} on {}", text.empty() ? "" : ", ", value, RanksText(places, names));
  }
  return text;
}

Status CheckGpus(std::span<const DeviceCard> cards, const RankNames& names) {
  RankSet without;
  for (std::size_t place = 0; place < cards.size(); ++place) {
    if (!cards[place].problem.empty()) without.Add(static_cast<int>(place));
  }
  if (without.empty()) return Status::Ok();
  const int first = without.ranks().front();
  without.Remove(first);
  const std::string others =
      without.empty() ? "" : fmt::format(" (nor can {})", RanksText(without, names));
  return Error(StatusCode::kResource,
               "{} cannot work on GPU tensors{}: {}. Until that is mended, move the tensors to the "
               "CPU first, on all ranks",
               RankText(first, names), others, cards[static_cast<std::size_t>(first)].problem);
}

// Why NCCL cannot go; empty: it can.
std::string Obstacle(std::span<const DeviceCard> cards, const RankNames& names) {
  for (const auto& [uuid, places] : Groups(cards, [](const auto& card) { return card.uuid; })) {
    if (places.count() > 1) return fmt::format("{} share a GPU", RanksText(places, names));
  }
  for (std::size_t place = 0; place < cards.size(); ++place) {
    if (cards[place].nccl_version != 0) continue;
    return fmt::format("{} has no NCCL: {}", RankText(static_cast<int>(place), names),
                       cards[place].no_nccl);
  }
  const auto versions =
      Groups(cards, [](const auto& card) { return "NCCL " + NcclVersionText(card.nccl_version); });
  if (versions.size() == 1) return "";
  return fmt::format("the ranks have different versions: {}", GroupsText(versions, names));
}

}  // namespace

std::string DeviceCard::ToText() const {
  return fmt::format("{}\n{}\n{}\n{}\n{}\n", Line(wanted, kMostOfWord), Line(uuid, kMostOfWord),
                     nccl_version, Line(no_nccl, kMostOfText), Line(problem, kMostOfText));
}

Result<DeviceCard> DeviceCard::FromText(std::string_view text) {
  std::array<std::string_view, 5> fields;
  for (std::string_view& field : fields) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) {
      return Fail(Error(StatusCode::kInternal, "what a rank says of its GPU ends too early"));
    }
    field = text.substr(0, end);
    text.remove_prefix(end + 1);
  }
  DeviceCard card{.wanted = std::string(fields[0]),
                  .uuid = std::string(fields[1]),
                  .no_nccl = std::string(fields[3]),
                  .problem = std::string(fields[4])};
  const char* const end = fields[2].data() + fields[2].size();
  const auto [stopped, error] = std::from_chars(fields[2].data(), end, card.nccl_version);
  if (error == std::errc() && stopped == end && text.empty()) return card;
  return Fail(Error(StatusCode::kInternal, "what a rank says of its GPU is no card: version '{}'",
                    fields[2]));
}

Result<DeviceChoice> ChooseDeviceEngine(std::span<const DeviceCard> cards, const RankNames& names,
                                        const HostLayout& layout, bool flat) {
  if (Status status = CheckGpus(cards, names); !status.ok()) return Fail(std::move(status));
  const auto wishes = Groups(cards, [](const auto& card) { return card.wanted; });
  if (wishes.size() != 1) {
    return Fail(Error(StatusCode::kMismatch,
                      "HORA_GPU_BACKEND differs between ranks: {}; set it alike on all of them",
                      GroupsText(wishes, names)));
  }
  const std::string& wanted = wishes.front().first;
  if (wanted == "staged") return DeviceChoice{};
  std::string obstacle = Obstacle(cards, names);
  if (wanted == "nccl") {
    if (obstacle.empty()) return DeviceChoice{.engine = DeviceEngine::kNccl, .why = {}};
    return Fail(Error(StatusCode::kResource,
                      "HORA_GPU_BACKEND=nccl asks for NCCL, which cannot go: {}. "
                      "HORA_GPU_BACKEND=auto goes through the host's memory instead",
                      obstacle));
  }
  const bool has_neighbours = layout.size() > layout.hosts();
  if (obstacle.empty() && layout.hosts() > 1 && has_neighbours && !flat) {
    return DeviceChoice{.engine = DeviceEngine::kLayers, .why = {}};
  }
  if (obstacle.empty() && layout.hosts() > 1) {
    obstacle = fmt::format(
        "the ranks are on {} hosts, between which NCCL neither authenticates nor encrypts; on a "
        "network of your own, HORA_GPU_BACKEND=nccl lets it",
        layout.hosts());
  }
  if (!obstacle.empty()) {
    return DeviceChoice{.engine = DeviceEngine::kStaged, .why = std::move(obstacle)};
  }
  return DeviceChoice{.engine = DeviceEngine::kNccl, .why = {}};
}

}  // namespace hora

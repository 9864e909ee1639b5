#include "hora/negotiation/readiness_table.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

#include "hora/base/format.h"
#include "hora/negotiation/wording.h"

namespace hora {
namespace {

constexpr int kBits = 64;

std::size_t WordOf(int slot) { return static_cast<std::size_t>(slot / kBits); }
std::uint64_t MaskOf(int slot) { return std::uint64_t{1} << (slot % kBits); }

int LowestRank(const RankSet& set) {
  const auto& words = set.words();
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] != 0) return static_cast<int>(i) * kBits + std::countr_zero(words[i]);
  }
  return -1;
}

bool ByRank(const RankRows& a, const RankRows& b) { return a.rank < b.rank; }

void Merge(std::vector<RequestVariant>& into, RequestVariant variant) {
  const auto same = std::find_if(into.begin(), into.end(), [&](const RequestVariant& known) {
    return known.params == variant.params;
  });
  if (same == into.end()) {
    into.push_back(std::move(variant));
    return;
  }
  same->ranks.Add(variant.ranks);
  auto& rows = same->first_dims;
  const auto middle = static_cast<std::ptrdiff_t>(rows.size());
  rows.insert(rows.end(), variant.first_dims.begin(), variant.first_dims.end());
  std::inplace_merge(rows.begin(), rows.begin() + middle, rows.end(), ByRank);
}

std::size_t WireBytes(const SubtreeRequest& request) {
  std::size_t bytes = 64 + request.name.size();
  for (const RequestVariant& variant : request.variants) {
    bytes += 96 + variant.params.shape.dims().size_bytes() + variant.ranks.words().size() * 8 +
             variant.first_dims.size() * sizeof(RankRows);
  }
  return bytes;
}

}  // namespace

ReadinessTable::ReadinessTable(std::vector<RankSet> contributors)
    : contributors_(std::move(contributors)), slots_of_(contributors_.size()) {}

Status ReadinessTable::AddSlots(int contributor, const SlotSet& slots) {
  const Words& words = slots.words();
  Grow(words.size());
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == 0) continue;
    if (Status status = AddWord(contributor, i, words[i]); !status.ok()) return status;
  }
  return Status::Ok();
}

Status ReadinessTable::AddSlot(int contributor, int slot) {
  Grow(WordOf(slot) + 1);
  return AddWord(contributor, WordOf(slot), MaskOf(slot));
}

Status ReadinessTable::AddWord(int contributor, std::size_t word, std::uint64_t bits) {
  std::uint64_t& own = slots_of_[static_cast<std::size_t>(contributor)][word];
  if ((own & bits) != 0) {
    return Error(StatusCode::kInternal, "cache slot {} is reported ready twice",
                 static_cast<int>(word) * kBits + std::countr_zero(own & bits));
  }
  own |= bits;
  for (std::uint64_t rest = bits; rest != 0; rest &= rest - 1) {
    const std::size_t slot = word * kBits + static_cast<std::size_t>(std::countr_zero(rest));
    if (++count_[slot] < contributors_.size()) continue;
    ready_slots_[word] |= rest & -rest;
    ++ready_slots_count_;
  }
  return Status::Ok();
}

Status ReadinessTable::AddRequest(int contributor, SubtreeRequest request) {
  auto& named = *named_.try_emplace(std::move(request.name)).first;
  auto& [name, collected] = named;
  if (collected.contributors.Contains(contributor)) {
    return Error(StatusCode::kInternal, "{} is reported ready twice", Quoted(name));
  }
  Collect(collected, contributor, std::move(request.variants));
  if (collected.stage == Stage::kReady) ready_requests_.push_back(&named);
  return Status::Ok();
}

void ReadinessTable::Collect(Collected& into, int contributor,
                             std::vector<RequestVariant> variants) {
  into.contributors.Add(contributor);
  if (++into.count == contributors_.size()) into.stage = Stage::kReady;
  for (RequestVariant& variant : variants) Merge(into.variants, std::move(variant));
}

SubtreeRequest ReadinessTable::Repeat(int contributor, const Response& meaning) const {
  RequestVariant variant{.params = meaning.params,
                         .ranks = contributors_[static_cast<std::size_t>(contributor)]};
  if (meaning.params.kind == OpKind::kAllgather) {
    for (const int rank : variant.ranks.ranks()) {
      variant.first_dims.push_back({rank, meaning.first_dims[static_cast<std::size_t>(rank)]});
    }
  }
  return {meaning.name, {std::move(variant)}};
}

void ReadinessTable::Expand(int slot, const Response& meaning) {
  Grow(WordOf(slot) + 1);
  expanded_[WordOf(slot)] |= MaskOf(slot);
  if (count_[static_cast<std::size_t>(slot)] == 0) return;
  auto& named = *named_.try_emplace(meaning.name).first;
  Collected& collected = named.second;
  const bool taken = Has(taken_slots_, slot);
  for (std::size_t i = 0; i < contributors_.size(); ++i) {
    if (!Has(slots_of_[i], slot)) continue;
    const int contributor = static_cast<int>(i);
    std::vector<RequestVariant> variants;
    if (!taken) variants = Repeat(contributor, meaning).variants;
    Collect(collected, contributor, std::move(variants));
  }
  if (taken) {
    collected.stage = Stage::kTaken;
  } else if (collected.stage == Stage::kReady) {
    ready_requests_.push_back(&named);
  }
  DropSlot(slot);
}

void ReadinessTable::ForgetSlot(int slot) {
  if (WordOf(slot) < expanded_.size()) expanded_[WordOf(slot)] &= ~MaskOf(slot);
}

SlotSet ReadinessTable::TakeSlots() {
  if (ready_slots_count_ == 0) return {};
  for (std::size_t i = 0; i < ready_slots_.size(); ++i) taken_slots_[i] |= ready_slots_[i];
  SlotSet taken = SlotSet::FromWords(ready_slots_);
  std::fill(ready_slots_.begin(), ready_slots_.end(), 0);
  ready_slots_count_ = 0;
  return taken;
}

std::vector<SubtreeRequest> ReadinessTable::TakeRequests(std::size_t max_bytes) {
  std::vector<SubtreeRequest> taken;
  std::size_t bytes = 0;
  for (; taken.size() < ready_requests_.size() && bytes < max_bytes;
       bytes += WireBytes(taken.back())) {
    auto& [name, collected] = *ready_requests_[taken.size()];
    collected.stage = Stage::kTaken;
    // The order of arrival must not show.
    std::sort(collected.variants.begin(), collected.variants.end(),
              [](const RequestVariant& a, const RequestVariant& b) {
                return LowestRank(a.ranks) < LowestRank(b.ranks);
              });
    taken.push_back({name, std::move(collected.variants)});
  }
  ready_requests_.erase(ready_requests_.begin(),
                        ready_requests_.begin() + static_cast<std::ptrdiff_t>(taken.size()));
  return taken;
}

bool ReadinessTable::AgreeSlots(const SlotSet& slots) {
  const Words& words = slots.words();
  if (words.size() > taken_slots_.size()) return false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if ((words[i] & ~taken_slots_[i]) != 0) return false;
  }
  for (std::size_t i = 0; i < words.size(); ++i) {
    for (Words& own : slots_of_) own[i] &= ~words[i];
    taken_slots_[i] &= ~words[i];
    for (std::uint64_t rest = words[i]; rest != 0; rest &= rest - 1) {
      count_[i * kBits + static_cast<std::size_t>(std::countr_zero(rest))] = 0;
    }
  }
  return true;
}

bool ReadinessTable::AgreeName(const std::string& name, int slot) {
  if (const auto found = named_.find(name); found != named_.end()) {
    if (found->second.stage != Stage::kTaken) return false;
    named_.erase(found);
    if (slot >= 0) ForgetSlot(slot);
    return true;
  }
  if (slot < 0 || !Has(taken_slots_, slot)) return false;
  DropSlot(slot);
  return true;
}

RankSet ReadinessTable::SubmittedRanks(const std::string& name, int slot) const {
  RankSet ranks;
  const auto found = named_.find(name);
  for (std::size_t i = 0; i < contributors_.size(); ++i) {
    const bool has = found != named_.end()
                         ? found->second.contributors.Contains(static_cast<int>(i))
                         : slot >= 0 && Has(slots_of_[i], slot);
    if (has) ranks.Add(contributors_[i]);
  }
  return ranks;
}

void ReadinessTable::Clear() { *this = ReadinessTable(std::move(contributors_)); }

bool ReadinessTable::Has(const Words& words, int slot) {
  return WordOf(slot) < words.size() && (words[WordOf(slot)] & MaskOf(slot)) != 0;
}

void ReadinessTable::Grow(std::size_t words) {
  if (words <= ready_slots_.size()) return;
  for (Words& own : slots_of_) own.resize(words);
  ready_slots_.resize(words);
  taken_slots_.resize(words);
  expanded_.resize(words);
  count_.resize(words * kBits);
}

void ReadinessTable::DropSlot(int slot) {
  const std::size_t word = WordOf(slot);
  const std::uint64_t mask = MaskOf(slot);
  for (Words& own : slots_of_) own[word] &= ~mask;
  if ((ready_slots_[word] & mask) != 0) --ready_slots_count_;
  ready_slots_[word] &= ~mask;
  taken_slots_[word] &= ~mask;
  count_[static_cast<std::size_t>(slot)] = 0;
}

}  // namespace hora

#include "hora/negotiation/readiness_table.h"

#include <algorithm>
#include <bit>
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
    for (const TensorSpec& tensor : variant.params.rest) {
      bytes += 32 + tensor.shape.dims().size_bytes();
    }
  }
  return bytes;
}

RankSet RanksIn(const std::vector<RequestVariant>& variants) {
  RankSet ranks;
  for (const RequestVariant& variant : variants) ranks.Add(variant.ranks);
  return ranks;
}

RankSet Without(RankSet ranks, const RankSet& others) {
  ranks.Remove(others);
  return ranks;
}

RankSet Both(const RankSet& a, const RankSet& b) { return Without(a, Without(a, b)); }

// What is left of the variants without these ranks.
void Remove(std::vector<RequestVariant>& variants, const RankSet& ranks) {
  for (RequestVariant& variant : variants) {
    variant.ranks.Remove(ranks);
    std::erase_if(variant.first_dims,
                  [&](const RankRows& own) { return ranks.Contains(own.rank); });
  }
  std::erase_if(variants, [](const RequestVariant& variant) { return variant.ranks.empty(); });
}

}  // namespace

ReadinessTable::ReadinessTable(std::vector<RankRange> contributors)
    : contributors_(std::move(contributors)),
      subtree_{contributors_.front().first, contributors_.back().end},
      slots_of_(contributors_.size()) {}

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
  if (collected.stage == Stage::kTaken) {
    return AddLate(named, contributor, std::move(request.variants));
  }
  Collect(named, contributor, std::move(request.variants));
  if (collected.stage == Stage::kCollecting && IsComplete(named)) Ready(named);
  if (name == kJoinName) Excuse(contributor);
  return Status::Ok();
}

void ReadinessTable::Collect(Named::value_type& named, int contributor, Variants variants) {
  Collected& into = named.second;
  into.contributors.Add(contributor);
  ++into.count;
  for (RequestVariant& variant : variants) Merge(into.variants, std::move(variant));
}

bool ReadinessTable::IsComplete(const Named::value_type& named) const {
  const Collected& collected = named.second;
  if (collected.count == contributors_.size()) return true;
  if (excused_.empty()) return false;
  const int excused = Without(excused_, collected.contributors).count();
  return collected.count + static_cast<std::size_t>(excused) == contributors_.size();
}

void ReadinessTable::Ready(Named::value_type& named) {
  named.second.stage = Stage::kReady;
  if (named.first == kJoinName) {
    ready_join_ = &named;
  } else {
    ready_requests_.push_back(&named);
  }
}

void ReadinessTable::Excuse(int contributor) {
  excused_.Add(contributor);
  std::vector<Named::value_type*> complete;
  for (auto& named : named_) {
    const bool waits = named.second.stage == Stage::kCollecting;
    if (waits && IsComplete(named)) complete.push_back(&named);
  }
  std::sort(complete.begin(), complete.end(),
            [](const auto* a, const auto* b) { return a->first < b->first; });
  for (auto* named : complete) Ready(*named);
}

// It was taken without this contributor, which was excused and turns out to have the name as well.
Status ReadinessTable::AddLate(Named::value_type& named, int contributor, Variants variants) {
  auto& [name, collected] = named;
  const bool again = std::any_of(collected.late.begin(), collected.late.end(),
                                 [&](const auto& late) { return late.first == contributor; });
  if (again || !excused_.Contains(contributor)) {
    return Error(StatusCode::kInternal, "{} is reported ready twice", Quoted(name));
  }
  collected.late.emplace_back(contributor, std::move(variants));
  return Status::Ok();
}

void ReadinessTable::BeginNextRound(Named::iterator found) {
  Collected& collected = found->second;
  if (collected.late.empty()) {
    named_.erase(found);
    return;
  }
  auto late = std::move(collected.late);
  collected = {};
  for (auto& [contributor, variants] : late) Collect(*found, contributor, std::move(variants));
  if (IsComplete(*found)) Ready(*found);
}

SlotSet ReadinessTable::open_slots() const {
  Words words(ready_slots_.size());
  for (const Words& own : slots_of_) {
    for (std::size_t i = 0; i < words.size(); ++i) words[i] |= own[i] & ~taken_slots_[i];
  }
  return SlotSet::FromWords(std::move(words));
}

void ReadinessTable::EndJoin() {
  joined_ = {};
  excused_ = {};
  ready_requests_.clear();
  std::vector<Named::value_type*> complete;
  for (auto named = named_.begin(); named != named_.end();) {
    TakeBack(*named);
    const Collected& collected = named->second;
    if (collected.count == 0) {
      named = named_.erase(named);
      continue;
    }
    if (collected.stage != Stage::kTaken && IsComplete(*named)) complete.push_back(&*named);
    ++named;
  }
  std::sort(complete.begin(), complete.end(),
            [](const auto* a, const auto* b) { return a->first < b->first; });
  for (auto* named : complete) Ready(*named);
}

// What was reported for a part of this subtree is void, above as below: see
// Negotiator::On(Readiness).
void ReadinessTable::TakeBack(Named::value_type& named) {
  Collected& collected = named.second;
  const bool whole = RanksOf(collected) == subtree_.ToSet();
  if (whole && collected.stage == Stage::kTaken) return;
  collected.stage = Stage::kCollecting;
  for (auto& [contributor, variants] : std::exchange(collected.late, {})) {
    Collect(named, contributor, std::move(variants));
  }
  const RankSet here = RanksIn(collected.variants);
  for (std::size_t i = 0; i < contributors_.size(); ++i) {
    const int contributor = static_cast<int>(i);
    const RankSet ranks = contributors_[i].ToSet();
    const bool part = !Without(ranks, here).empty();
    if (!part || !collected.contributors.Contains(contributor)) continue;
    Remove(collected.variants, ranks);
    collected.contributors.Remove(contributor);
    --collected.count;
  }
}

RankSet ReadinessTable::RanksOf(const Collected& collected) const {
  return collected.variants.empty() ? subtree_.ToSet() : RanksIn(collected.variants);
}

SubtreeRequest ReadinessTable::Repeat(int contributor, const Response& meaning) const {
  RequestVariant variant{.params = meaning.params,
                         .ranks = contributors_[static_cast<std::size_t>(contributor)].ToSet()};
  if (meaning.params.kind == OpKind::kAllgather) {
    const std::size_t tensors = meaning.params.tensor_count();
    for (const int rank : variant.ranks.ranks()) {
      const auto first = static_cast<std::size_t>(rank) * tensors;
      for (std::size_t tensor = 0; tensor < tensors; ++tensor) {
        variant.first_dims.push_back({rank, meaning.first_dims[first + tensor]});
      }
    }
  }
  return {meaning.name, {std::move(variant)}};
}

void ReadinessTable::Expand(int slot, const Response& meaning) {
  Grow(WordOf(slot) + 1);
  expanded_[WordOf(slot)] |= MaskOf(slot);
  if (count_[static_cast<std::size_t>(slot)] == 0) return;
  auto& named = *named_.try_emplace(meaning.name).first;
  const bool taken = Has(taken_slots_, slot);
  for (std::size_t i = 0; i < contributors_.size(); ++i) {
    if (!Has(slots_of_[i], slot)) continue;
    const int contributor = static_cast<int>(i);
    std::vector<RequestVariant> variants;
    if (!taken) variants = Repeat(contributor, meaning).variants;
    Collect(named, contributor, std::move(variants));
  }
  if (taken) {
    named.second.stage = Stage::kTaken;
  } else if (IsComplete(named)) {
    Ready(named);
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
    // Who is in it matters as long as somebody may be left out.
    taken.push_back(
        {name, joined_.empty() ? std::exchange(collected.variants, {}) : collected.variants});
  }
  ready_requests_.erase(ready_requests_.begin(),
                        ready_requests_.begin() + static_cast<std::ptrdiff_t>(taken.size()));
  if (ready_join_ != nullptr && ready_requests_.empty() && bytes < max_bytes) {
    ready_join_->second.stage = Stage::kTaken;
    taken.push_back({ready_join_->first, ready_join_->second.variants});
    ready_join_ = nullptr;
  }
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

bool ReadinessTable::AgreeName(const std::string& name, int slot, const RankSet& absent) {
  const RankSet absent_here = absent.empty() ? absent : Both(absent, subtree_.ToSet());
  if (!Without(absent_here, joined_).empty()) return false;
  const bool without_us = absent_here.count() == subtree_.count();
  if (const auto found = named_.find(name); found != named_.end()) {
    // All that is here came too late, whether the parent has heard of it or not.
    if (without_us) return true;
    const Collected& collected = found->second;
    if (collected.stage != Stage::kTaken) return false;
    const bool all_of_us = collected.variants.empty() && absent_here.empty();
    if (!all_of_us && RanksOf(collected) != Without(subtree_.ToSet(), absent_here)) return false;
    BeginNextRound(found);
    if (slot >= 0 && !named_.contains(name)) ForgetSlot(slot);
    return true;
  }
  if (slot < 0 || !Has(taken_slots_, slot)) return without_us;
  if (!absent_here.empty()) return false;
  DropSlot(slot);
  return true;
}

RankSet ReadinessTable::SubmittedRanks(const std::string& name, int slot) const {
  if (const auto found = named_.find(name); found != named_.end()) return RanksOf(found->second);
  RankSet ranks;
  for (std::size_t i = 0; i < contributors_.size(); ++i) {
    if (slot >= 0 && Has(slots_of_[i], slot)) ranks.Add(contributors_[i].ToSet());
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

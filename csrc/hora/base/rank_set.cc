#include "hora/base/rank_set.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/format.h"

namespace hora {
namespace {

constexpr int kBits = 64;

std::size_t WordOf(int rank) { return static_cast<std::size_t>(rank / kBits); }
std::uint64_t MaskOf(int rank) { return std::uint64_t{1} << (rank % kBits); }

}  // namespace

RankSet RankSet::Of(int rank) {
  RankSet set;
  set.Add(rank);
  return set;
}

RankSet RankSet::AllOf(int size) {
  Check(size >= 0, "a set of ranks has no negative size");
  RankSet set;
  set.words_.assign(WordOf(size), ~std::uint64_t{0});
  if (size % kBits != 0) set.words_.push_back(MaskOf(size) - 1);
  return set;
}

RankSet RankSet::FromWords(std::vector<std::uint64_t> words) {
  RankSet set;
  set.words_ = std::move(words);
  set.Trim();
  return set;
}

void RankSet::Add(int rank) {
  Check(rank >= 0, "a rank is not negative");
  if (WordOf(rank) >= words_.size()) words_.resize(WordOf(rank) + 1);
  words_[WordOf(rank)] |= MaskOf(rank);
}

void RankSet::Add(const RankSet& other) {
  if (other.words_.size() > words_.size()) words_.resize(other.words_.size());
  for (std::size_t i = 0; i < other.words_.size(); ++i) words_[i] |= other.words_[i];
}

void RankSet::Remove(int rank) {
  if (Contains(rank)) words_[WordOf(rank)] &= ~MaskOf(rank);
  Trim();
}

void RankSet::Remove(const RankSet& other) {
  const std::size_t shared = std::min(words_.size(), other.words_.size());
  for (std::size_t i = 0; i < shared; ++i) words_[i] &= ~other.words_[i];
  Trim();
}

bool RankSet::Contains(int rank) const {
  return rank >= 0 && WordOf(rank) < words_.size() && (words_[WordOf(rank)] & MaskOf(rank)) != 0;
}

int RankSet::count() const {
  int total = 0;
  for (const std::uint64_t word : words_) total += std::popcount(word);
  return total;
}

std::vector<int> RankSet::ranks() const {
  std::vector<int> ranks;
  for (std::size_t i = 0; i < words_.size(); ++i) {
    for (std::uint64_t word = words_[i]; word != 0; word &= word - 1) {
      ranks.push_back(static_cast<int>(i) * kBits + std::countr_zero(word));
    }
  }
  return ranks;
}

std::string RankSet::ToString() const {
  std::string text;
  const std::vector<int> all = ranks();
  for (std::size_t first = 0, last = 0; first < all.size(); first = last + 1) {
    last = first;
    while (last + 1 < all.size() && all[last + 1] == all[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text +=
        first == last ? fmt::format("{}", all[first]) : fmt::format("{}-{}", all[first], all[last]);
  }
  return text.empty() ? "none" : text;
}

void RankSet::Trim() {
  while (!words_.empty() && words_.back() == 0) words_.pop_back();
}

}  // namespace hora

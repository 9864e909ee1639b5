#include "hora/negotiation/response_cache.h"

#include <algorithm>
#include <utility>

namespace hora {
namespace {

constexpr int kBits = 64;

}  // namespace

int ResponseCache::Find(std::string_view name) const {
  const auto found = slots_.find(name);
  return found == slots_.end() ? -1 : found->second;
}

int ResponseCache::FindNext(std::string_view name) {
  int slot = found_ < 0 ? -1 : entry(found_).next;
  if (!Contains(slot) || at(slot).name != name) {
    slot = Find(name);
    if (found_ >= 0) entry(found_).next = slot;
  }
  found_ = slot;
  return slot;
}

bool ResponseCache::Contains(int slot) const {
  const auto word = static_cast<std::size_t>(slot) / kBits;
  return slot >= 0 && word < used_.size() && (used_[word] >> (slot % kBits) & 1) != 0;
}

bool ResponseCache::ContainsAll(const SlotSet& slots) const {
  const auto& words = slots.words();
  if (words.size() > used_.size()) return false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if ((words[i] & ~used_[i]) != 0) return false;
  }
  return true;
}

bool ResponseCache::Answers(int slot, const Request& request, int rank) const {
  const Response& response = at(slot);
  if (!(response.params == request.params)) return false;
  if (request.params.kind != OpKind::kAllgather) return true;
  if (request.first_dims.size() != request.params.tensor_count()) return false;
  const auto own = static_cast<std::ptrdiff_t>(rank) *
                   static_cast<std::ptrdiff_t>(request.params.tensor_count());
  return std::equal(request.first_dims.begin(), request.first_dims.end(),
                    response.first_dims.begin() + own);
}

void ResponseCache::Touch(int slot) {
  if (slot == newest_) return;
  Unlink(slot);
  Link(slot);
}

ResponseCache::Insertion ResponseCache::Insert(SharedResponse response) {
  if (capacity_ == 0) return {};
  Insertion done{.slot = Find(response->name)};
  if (done.slot >= 0) {
    slots_.erase(response->name);  // refers to the name in the old one
    slots_.emplace(response->name, done.slot);
    entry(done.slot).response = std::move(response);
    Touch(done.slot);
    return done;
  }
  done.slot = TakeFreeSlot();
  if (done.slot < 0) {
    done.slot = oldest_;
    slots_.erase(at(done.slot).name);
    done.evicted = std::move(entry(done.slot).response);
    Unlink(done.slot);
  }
  Fill(done.slot, std::move(response));
  return done;
}

void ResponseCache::Erase(int slot) {
  slots_.erase(at(slot).name);
  Unlink(slot);
  entry(slot) = {};
  SetUsed(slot, false);
  free_.push(slot);
}

int ResponseCache::TakeFreeSlot() {
  if (!free_.empty()) {
    const int slot = free_.top();
    free_.pop();
    return slot;
  }
  if (entries_.size() == capacity_) return -1;
  entries_.emplace_back();
  return static_cast<int>(entries_.size()) - 1;
}

void ResponseCache::Fill(int slot, SharedResponse response) {
  entry(slot).response = std::move(response);
  SetUsed(slot, true);
  slots_.emplace(at(slot).name, slot);
  Link(slot);
}

void ResponseCache::SetUsed(int slot, bool used) {
  const auto word = static_cast<std::size_t>(slot) / kBits;
  if (word >= used_.size()) used_.resize(word + 1);
  const std::uint64_t mask = std::uint64_t{1} << (slot % kBits);
  used_[word] = used ? used_[word] | mask : used_[word] & ~mask;
}

void ResponseCache::Link(int slot) {
  entry(slot).older = newest_;
  entry(slot).newer = -1;
  if (newest_ >= 0) entry(newest_).newer = slot;
  newest_ = slot;
  if (oldest_ < 0) oldest_ = slot;
}

void ResponseCache::Unlink(int slot) {
  const auto [older, newer] = std::pair(entry(slot).older, entry(slot).newer);
  (older >= 0 ? entry(older).newer : oldest_) = newer;
  (newer >= 0 ? entry(newer).older : newest_) = older;
}

}  // namespace hora

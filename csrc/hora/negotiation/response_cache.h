// Agreed responses by slot, so that a repeated tensor is one bit on the wire.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <queue>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hora/wire/agreed.h"
#include "hora/wire/control_message.h"

namespace hora {

// Owns up to `capacity` responses. Every rank applies the same agreements in the same order, so all
// caches are equal at the same number of agreements; nothing here may depend on anything else.
// One thread at a time; nothing blocks or fails.
class ResponseCache {
 public:
  struct Insertion {
    int slot = -1;           // -1: the capacity is 0
    SharedResponse evicted;  // what `slot` held, when that was another name
  };

  explicit ResponseCache(std::uint32_t capacity) : capacity_(capacity) {}

  int Find(std::string_view name) const;  // the slot, or -1
  // The same, by one comparison when names come in the same order again, as those of a step do.
  int FindNext(std::string_view name);
  bool Contains(int slot) const;
  bool ContainsAll(const SlotSet& slots) const;
  const Response& at(int slot) const { return *shared(slot); }  // of a slot in use
  const SharedResponse& shared(int slot) const {
    return entries_[static_cast<std::size_t>(slot)].response;
  }
  std::size_t size() const { return slots_.size(); }

  // Would `rank` be served by repeating the response of `slot`?
  bool Answers(int slot, const Request& request, int rank) const;

  void Touch(int slot);  // agreed again: now the most recently used

  // Same name: in place. Else the lowest free slot, else that of the least recently used response.
  Insertion Insert(SharedResponse response);
  void Erase(int slot);

 private:
  struct Entry {
    SharedResponse response;
    int older = -1;  // neighbours in the order of use
    int newer = -1;
    int next = -1;  // what was looked up after it last time
  };

  Entry& entry(int slot) { return entries_[static_cast<std::size_t>(slot)]; }
  int TakeFreeSlot();
  void Fill(int slot, SharedResponse response);
  void Link(int slot);
  void Unlink(int slot);
  void SetUsed(int slot, bool used);

  std::uint32_t capacity_;
  std::deque<Entry> entries_;        // never moves: slots_ refers to the names in it
  std::vector<std::uint64_t> used_;  // a bit per slot
  std::unordered_map<std::string_view, int> slots_;
  std::priority_queue<int, std::vector<int>, std::greater<>> free_;
  int oldest_ = -1;
  int newest_ = -1;
  int found_ = -1;  // by the last FindNext
};

}  // namespace hora

// What a slot of the response cache meant to a child that had not seen the latest agreements yet.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "hora/wire/agreed.h"

namespace hora {

// A bit that a child sends names a response as of the agreements that the child has seen. When the
// slot was given to another name meanwhile, the evicted response is still here, so that the bit is
// understood instead of sent again. An entry is kept until every child has seen its eviction: no
// more of them than names that a child had waiting at one time.
// Owned by one negotiator; one thread at a time.
class SlotHistory {
 public:
  enum class Meaning : std::uint8_t { kCurrent, kEvicted, kNone };
  struct Lookup {
    Meaning meaning = Meaning::kNone;
    const Response* evicted = nullptr;  // until the next change of the history
  };

  // Agreement `sequence` gave `slot` other contents.
  void Changed(int slot, std::uint64_t sequence);
  // … and so evicted this response, which children may still refer to.
  void Evicted(int slot, std::uint64_t sequence, SharedResponse response);

  // The last agreement that changed any slot: who has seen it needs no look-up.
  std::uint64_t last_change() const { return last_change_; }
  Lookup Find(int slot, std::uint64_t agreements_seen) const;

  // Every child has seen this agreement.
  void Forget(std::uint64_t sequence);
  std::size_t size() const { return evictions_.size(); }

 private:
  struct Eviction {
    int slot = -1;
    std::uint64_t sequence = 0;
    SharedResponse response;
  };

  std::uint64_t last_change_ = 0;
  std::vector<std::uint64_t> changed_at_;  // by slot
  std::deque<Eviction> evictions_;         // by sequence
};

}  // namespace hora

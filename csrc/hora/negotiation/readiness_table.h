// Who has contributed which name: a node's own rank and the subtrees of its children.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hora/base/rank_set.h"
#include "hora/base/status.h"
#include "hora/negotiation/tree_position.h"
#include "hora/wire/control_message.h"

namespace hora {

// A name goes collecting → ready (every contributor has it) → taken (told to the parent, or
// decided) → agreed, and is then forgotten. Contributions of one name are either all bits of a
// cache slot or all requests; Expand turns the first into the second. Contributor 0 is the node
// itself. Owned by one negotiator; one thread at a time. A contribution that cannot be is refused
// with a kInternal status and changes nothing that matters any more.
//
// Join: a contributor is excused once it has contributed the join, for its ranks have nothing more
// to give: it counts as having every name that somebody else has. Links keep the order, so what its
// ranks submitted before they joined is here by then. What they submit later still counts for the
// present round while the name is not taken, else for the next one. EndJoin takes back what was
// taken without somebody and not agreed: child and parent part with the same contributions.
class ReadinessTable {
 public:
  explicit ReadinessTable(std::vector<RankRange> contributors);  // side by side, ascending

  Status AddSlots(int contributor, const SlotSet& slots);  // none of them is expanded
  Status AddSlot(int contributor, int slot);
  Status AddRequest(int contributor, SubtreeRequest request);

  // `rank`, of this subtree, has joined: requests may leave it out. All open slots must be expanded
  // then, and what comes later as a bit, because a bit says that the whole subtree has contributed.
  void AddJoined(int rank) { joined_.Add(rank); }
  const RankSet& joined() const { return joined_; }
  SlotSet open_slots() const;  // somebody has contributed, and they are not taken
  // The join is agreed: nobody has joined, and everybody must contribute again.
  void EndJoin();

  // From now on the name in `slot`, which `meaning` describes, is counted by requests.
  void Expand(int slot, const Response& meaning);
  bool IsExpanded(int slot) const { return Has(expanded_, slot); }
  const std::vector<std::uint64_t>& expanded() const { return expanded_; }
  void ForgetSlot(int slot);  // it holds another name now

  // What one contributor asks for when it asks for `meaning` again.
  SubtreeRequest Repeat(int contributor, const Response& meaning) const;

  bool has_ready() const {
    return ready_slots_count_ > 0 || !ready_requests_.empty() || ready_join_ != nullptr;
  }
  SlotSet TakeSlots();
  // In the order in which they became ready; stops after about `max_bytes` on the wire.
  std::vector<SubtreeRequest> TakeRequests(std::size_t max_bytes);

  // False, and nothing happens, unless all of them have been taken.
  bool AgreeSlots(const SlotSet& slots);
  // `slot`: of the cache, or -1. False unless the ranks here that are not `absent` are those whose
  // contributions were taken, and the others have joined. Contributions of absent ranks stay.
  bool AgreeName(const std::string& name, int slot, const RankSet& absent);

  // Ranks that are known to have submitted a name.
  RankSet SubmittedRanks(const std::string& name, int slot) const;

  void Clear();

 private:
  enum class Stage : std::uint8_t { kCollecting, kReady, kTaken };
  using Variants = std::vector<RequestVariant>;
  struct Collected {
    Variants variants;  // taken from everybody: moved away
    RankSet contributors;
    std::size_t count = 0;
    Stage stage = Stage::kCollecting;
    std::vector<std::pair<int, Variants>> late;  // of the next round, by contributor
  };
  using Named = std::unordered_map<std::string, Collected>;
  using Words = std::vector<std::uint64_t>;

  Status AddWord(int contributor, std::size_t word, std::uint64_t bits);
  static bool Has(const Words& words, int slot);
  void Grow(std::size_t words);
  void Collect(Named::value_type& named, int contributor, Variants variants);
  bool IsComplete(const Named::value_type& named) const;
  void Ready(Named::value_type& named);
  void Excuse(int contributor);
  Status AddLate(Named::value_type& named, int contributor, Variants variants);
  void BeginNextRound(Named::iterator named);  // with what came late
  void TakeBack(Named::value_type& named);
  RankSet RanksOf(const Collected& collected) const;
  void DropSlot(int slot);

  std::vector<RankRange> contributors_;
  RankRange subtree_;                 // all of them
  std::vector<Words> slots_of_;       // by contributor; a bit stays until it is agreed
  std::vector<std::uint32_t> count_;  // by slot: contributors that have it
  Words ready_slots_;
  Words taken_slots_;
  Words expanded_;
  std::size_t ready_slots_count_ = 0;
  Named named_;
  std::vector<Named::value_type*> ready_requests_;
  Named::value_type* ready_join_ = nullptr;  // taken last: nothing else is ready behind it
  RankSet joined_;
  RankSet excused_;  // contributors
};

}  // namespace hora

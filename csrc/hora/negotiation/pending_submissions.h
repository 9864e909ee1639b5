// What this rank has submitted and not seen agreed, oldest first.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hora/base/clock.h"
#include "hora/tensor/op_kind.h"
#include "hora/wire/agreed.h"

namespace hora {

// Found by cache slot while its name has one, else by name. Records and
// their strings are reused: the steady state does not allocate. Owned by one negotiator; one thread
// at a time.
class PendingSubmissions {
 public:
  struct Record {
    std::string name;
    OpKind kind = OpKind::kAllreduce;
    TimePoint since;
    TensorEntry* entry = nullptr;  // the submitter's, passed on

   private:
    friend class PendingSubmissions;
    int slot = -1;
    int older = -1;
    int newer = -1;
  };

  void Add(const std::string& name, OpKind kind, int slot, TimePoint now,
           TensorEntry* entry = nullptr);  // slot -1: by name
  // No longer pending, if it was. Its entry.
  TensorEntry* TakeSlot(int slot);
  TensorEntry* Take(const std::string& name, int slot);  // slot: of the cache now, or -1
  void SlotEvicted(int slot);                            // from now on by name
  // As if it had been submitted just now, if it is pending at all, and not by slot.
  void Renew(const std::string& name, TimePoint now);
  const Record* Find(const std::string& name, int slot) const;
  void Clear();

  std::size_t size() const { return size_; }
  const Record* oldest() const { return At(oldest_); }
  const Record* NewerThan(const Record& record) const { return At(record.newer); }

  // A mark that moves from the oldest to the newest: what is behind it has been reported as
  // waiting.
  const Record* oldest_unreported() const { return At(unreported_); }
  void MarkReported() { unreported_ = records_[Index(unreported_)].newer; }

 private:
  static std::size_t Index(int record) { return static_cast<std::size_t>(record); }
  const Record* At(int record) const { return record < 0 ? nullptr : &records_[Index(record)]; }
  int InSlot(int slot) const;
  int IndexOf(const std::string& name, int slot) const;
  TensorEntry* TakeRecord(int index);
  void Append(int index, TimePoint now);
  void Unlink(int index);

  std::deque<Record> records_;  // never move: by_name_ refers to the names in them
  std::vector<int> free_;
  std::vector<int> by_slot_;
  std::unordered_map<std::string_view, int> by_name_;
  std::size_t size_ = 0;
  int oldest_ = -1;
  int newest_ = -1;
  int unreported_ = -1;
};

}  // namespace hora

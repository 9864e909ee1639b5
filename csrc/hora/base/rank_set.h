// A set of ranks as a bit set, printed as "0, 2-3".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hora {

// A value type. Ranks are ≥ 0; memory is one bit per rank up to the largest member.
class RankSet {
 public:
  RankSet() = default;
  static RankSet Of(int rank);
  static RankSet AllOf(int size);  // {0, …, size-1}
  static RankSet FromWords(std::vector<std::uint64_t> words);

  void Add(int rank);
  void Add(const RankSet& other);
  void Remove(int rank);
  void Remove(const RankSet& other);
  bool Contains(int rank) const;
  int count() const;
  bool empty() const { return words_.empty(); }
  std::vector<int> ranks() const;                                     // ascending
  const std::vector<std::uint64_t>& words() const { return words_; }  // no trailing zero word

  std::string ToString() const;  // "0, 2-3", "none"

  friend bool operator==(const RankSet&, const RankSet&) = default;

 private:
  void Trim();

  std::vector<std::uint64_t> words_;
};

}  // namespace hora

// Watches a simulated world and finds what must never happen.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_set>
#include <vector>

#include "hora/base/status.h"
#include "hora/negotiation/response_cache.h"
#include "hora/wire/response.h"
#include "sim/workload.h"

namespace hora::sim {

// Fed with everything that the ranks do; remembers the first violation, with the rank and the name.
// Invariants: a submission ends exactly once; all ranks execute the same responses in the same
// order, parted into the same agreements; a response is what the workload says; caches are equal at
// equal numbers of agreements.
class Ledger {
 public:
  Ledger(const Workload& workload, int size);

  void Submitted(int rank, const std::string& name);
  void Executed(int rank, const Response& response);
  void AgreementEnded(int rank);
  void Rejected(int rank, const std::string& name, const Status& status);
  void Failed(int rank, const Status& status);  // ends all that is pending there
  void Cached(int rank, std::uint64_t agreements, const ResponseCache& cache);

  // The world has come to rest.
  void Finish();

  bool IsPending(int rank, const std::string& name) const;
  int executed_count(int rank) const { return static_cast<int>(of(rank).executed); }
  bool ok() const { return violation_.empty(); }
  const std::string& violation() const { return violation_; }
  void Violation(std::string what);

 private:
  struct PerRank {
    std::unordered_set<std::string> pending;
    std::size_t executed = 0;
    std::size_t agreements = 0;
    bool failed = false;
  };

  PerRank& of(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  const PerRank& of(int rank) const { return ranks_[static_cast<std::size_t>(rank)]; }
  void CheckExpected(const Response& response);

  const Workload& workload_;
  std::vector<PerRank> ranks_;
  std::vector<Response> history_;                  // as executed by whoever was first
  std::vector<std::size_t> agreement_ends_;        // in history_
  std::vector<int> rounds_;                        // by name: how often it is in history_
  std::map<std::uint64_t, std::uint64_t> caches_;  // digest by number of agreements
  std::string violation_;
};

}  // namespace hora::sim

// Watches a simulated world and finds what must never happen.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "hora/base/status.h"
#include "hora/negotiation/response_cache.h"
#include "hora/wire/request.h"
#include "hora/wire/response.h"
#include "hora/wire/tunables.h"

namespace hora::sim {

// Fed with everything that the ranks do; remembers the first violation, with the rank and the name.
// Invariants: a submission ends exactly once; all ranks execute the same responses in the same
// order, parted into the same agreements; a response is what the ranks that are not absent have
// asked for; absent is who has joined, and has not asked before it joined; caches are equal at
// equal numbers of agreements; all ranks are tuned at the same operation.
class Ledger {
 public:
  explicit Ledger(int size) : ranks_(static_cast<std::size_t>(size)) {}

  void Submitted(int rank, const Request& request);
  void Executed(int rank, const Response& response);
  void AgreementEnded(int rank);
  void RootHearsOfJoin(int rank) { last_to_join_ = rank; }
  void Tuned(int rank, const Tuning& tuning);  // from what it executes next
  void Rejected(int rank, const std::string& name, const Status& status);
  void Failed(int rank, const Status& status);  // ends all that is pending there
  void Cached(int rank, std::uint64_t agreements, const ResponseCache& cache);

  // The world has come to rest.
  void Finish();

  bool IsPending(int rank, const std::string& name) const;
  int executed_count(int rank) const { return static_cast<int>(of(rank).executed); }
  std::size_t absences() const { return absences_; }
  bool ok() const { return violation_.empty(); }
  const std::string& violation() const { return violation_; }
  void Violation(std::string what);

 private:
  struct Pending {
    Request request;
    int joins = 0;         // of this rank, when it submitted
    bool decided = false;  // by what stands in history_, which the rank has not executed yet
  };
  struct PerRank {
    std::unordered_map<std::string, Pending> pending;
    int joins = 0;  // submitted
    std::size_t executed = 0;
    std::size_t agreements = 0;
    std::size_t tunings = 0;
    bool failed = false;
  };
  struct TunedAt {
    std::size_t index = 0;  // in history_
    Tuning tuning;

    friend bool operator==(const TunedAt&, const TunedAt&) = default;
  };

  PerRank& of(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  const PerRank& of(int rank) const { return ranks_[static_cast<std::size_t>(rank)]; }
  void CheckExpected(const Response& response);
  void CheckParticipation(int rank, const Response& response);

  std::vector<PerRank> ranks_;
  std::vector<Response> history_;            // as executed by whoever was first
  std::vector<std::size_t> agreement_ends_;  // in history_
  std::vector<TunedAt> tunings_;
  int joins_agreed_ = 0;  // in history_
  int last_to_join_ = -1;
  std::size_t absences_ = 0;
  std::map<std::uint64_t, std::uint64_t> caches_;  // digest by number of agreements
  std::string violation_;
};

}  // namespace hora::sim

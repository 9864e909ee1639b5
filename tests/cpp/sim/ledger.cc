#include "sim/ledger.h"

#include "hora/base/format.h"
#include "sim/random.h"

namespace hora::sim {
namespace {

std::uint64_t DigestOf(const ResponseCache& cache) {
  std::uint64_t digest = 0;
  std::size_t found = 0;
  for (int slot = 0; found < cache.size(); ++slot) {
    if (!cache.Contains(slot)) continue;
    ++found;
    const Response& response = cache.at(slot);
    digest = Mix(digest, slot, std::hash<std::string>()(response.name),
                 static_cast<int>(response.params.kind), response.params.shape.num_elements(),
                 response.params.root_rank);
    for (const std::int64_t rows : response.first_dims) digest = Mix(digest, rows);
  }
  return digest;
}

}  // namespace

Ledger::Ledger(const Workload& workload, int size)
    : workload_(workload),
      ranks_(static_cast<std::size_t>(size)),
      rounds_(static_cast<std::size_t>(workload.names())) {}

void Ledger::Violation(std::string what) {
  if (violation_.empty()) violation_ = std::move(what);
}

void Ledger::Submitted(int rank, const std::string& name) {
  if (!of(rank).pending.insert(name).second) {
    Violation(fmt::format("rank {} submits '{}', which is pending there", rank, name));
  }
}

void Ledger::Executed(int rank, const Response& response) {
  if (of(rank).pending.erase(response.name) == 0) {
    Violation(
        fmt::format("rank {} executes '{}', which is not pending there", rank, response.name));
  }
  const std::size_t index = of(rank).executed++;
  if (index == history_.size()) {
    history_.push_back(response);
    CheckExpected(response);
  } else if (!(history_[index] == response)) {
    Violation(
        fmt::format("rank {} executes '{}' ({}) as number {}, where another rank has '{}' ({})",
                    rank, response.name, response.error.ToString(), index, history_[index].name,
                    history_[index].error.ToString()));
  }
}

void Ledger::CheckExpected(const Response& response) {
  const int name = workload_.IndexOf(response.name);
  if (name < 0) return Violation(fmt::format("'{}' was never submitted", response.name));
  const int round = rounds_[static_cast<std::size_t>(name)]++;
  const Response expected = workload_.Expected(name, round);
  if (expected.error.code() != response.error.code()) {
    return Violation(fmt::format("round {} of '{}' ends in {} instead of {}", round, response.name,
                                 response.error.ToString(), ToString(expected.error.code())));
  }
  if (!response.error.ok()) return;
  if (!(expected.params == response.params) || expected.first_dims != response.first_dims) {
    Violation(fmt::format("round {} of '{}' has other parameters than were submitted", round,
                          response.name));
  }
}

void Ledger::AgreementEnded(int rank) {
  const std::size_t index = of(rank).agreements++;
  if (index == agreement_ends_.size()) {
    agreement_ends_.push_back(of(rank).executed);
  } else if (agreement_ends_[index] != of(rank).executed) {
    Violation(fmt::format("rank {} ends agreement {} after {} responses, another rank after {}",
                          rank, index, of(rank).executed, agreement_ends_[index]));
  }
}

void Ledger::Rejected(int rank, const std::string& name, const Status& status) {
  if (of(rank).pending.erase(name) == 0) {
    Violation(fmt::format("rank {} rejects '{}', which is not pending there: {}", rank, name,
                          status.ToString()));
  }
}

void Ledger::Failed(int rank, const Status&) {
  of(rank).failed = true;
  of(rank).pending.clear();
}

void Ledger::Cached(int rank, std::uint64_t agreements, const ResponseCache& cache) {
  const std::uint64_t digest = DigestOf(cache);
  const auto [known, first] = caches_.emplace(agreements, digest);
  if (!first && known->second != digest) {
    Violation(
        fmt::format("rank {} has another cache than others after {} agreements", rank, agreements));
  }
}

void Ledger::Finish() {
  for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
    if (!ranks_[rank].pending.empty()) {
      return Violation(fmt::format("deadlock: nothing happens any more, yet rank {} waits for '{}'",
                                   rank, *ranks_[rank].pending.begin()));
    }
    if (!ranks_[rank].failed && ranks_[rank].executed != history_.size()) {
      return Violation(fmt::format("rank {} has executed {} of {} responses", rank,
                                   ranks_[rank].executed, history_.size()));
    }
  }
}

bool Ledger::IsPending(int rank, const std::string& name) const {
  return of(rank).pending.contains(name);
}

}  // namespace hora::sim

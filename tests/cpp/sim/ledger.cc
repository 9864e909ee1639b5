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
                 response.params.root_rank, response.params.tensor_count());
    for (const std::int64_t rows : response.first_dims) digest = Mix(digest, rows);
  }
  return digest;
}

// What must come of these requests; kMismatch without text where they cannot be served.
Response Expected(const std::vector<const Request*>& asked, bool somebody_is_absent) {
  const Request& first = *asked.front();
  Response response{.name = first.name, .params = first.params};
  for (const Request* request : asked) {
    if (!(request->params == first.params)) response.error = Status(StatusCode::kMismatch, "");
  }
  if (somebody_is_absent && first.params.kind != OpKind::kAllreduce) {
    response.error = Status(StatusCode::kMismatch, "");
  }
  if (!response.error.ok()) return response;
  for (const Request* request : asked) {
    response.first_dims.insert(response.first_dims.end(), request->first_dims.begin(),
                               request->first_dims.end());
  }
  return response;
}

}  // namespace

void Ledger::Violation(std::string what) {
  if (violation_.empty()) violation_ = std::move(what);
}

void Ledger::Submitted(int rank, const Request& request) {
  if (request.name == kJoinName) ++of(rank).joins;
  if (!of(rank).pending.emplace(request.name, Pending{request, of(rank).joins, false}).second) {
    Violation(fmt::format("rank {} submits '{}', which is pending there", rank, request.name));
  }
}

void Ledger::Executed(int rank, const Response& response) {
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
  if (!response.absent.Contains(rank) && of(rank).pending.erase(response.name) == 0) {
    Violation(
        fmt::format("rank {} executes '{}', which is not pending there", rank, response.name));
  }
}

// Present is who has asked; absent is who has joined, unless it had asked before.
void Ledger::CheckParticipation(int rank, const Response& response) {
  const auto pending = of(rank).pending.find(response.name);
  const bool asked = pending != of(rank).pending.end() && !pending->second.decided;
  if (!response.absent.Contains(rank)) {
    if (!asked) {
      Violation(
          fmt::format("'{}' counts on rank {}, which has not submitted it", response.name, rank));
    }
    return;
  }
  ++absences_;
  if (of(rank).joins != joins_agreed_ + 1) {
    Violation(fmt::format("'{}' leaves out rank {}, which has not joined", response.name, rank));
  } else if (asked && pending->second.joins <= joins_agreed_) {
    Violation(fmt::format("'{}' leaves out rank {}, which submitted it before it joined",
                          response.name, rank));
  }
}

void Ledger::CheckExpected(const Response& response) {
  std::vector<const Request*> asked;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const int rank = static_cast<int>(i);
    CheckParticipation(rank, response);
    if (!violation_.empty()) return;
    if (response.absent.Contains(rank)) continue;
    Pending& own = of(rank).pending[response.name];
    own.decided = true;
    asked.push_back(&own.request);
  }
  if (asked.empty()) return Violation(fmt::format("nobody has asked for '{}'", response.name));
  Response expected = Expected(asked, !response.absent.empty());
  if (response.name == kJoinName) {
    ++joins_agreed_;
    expected.params.root_rank = last_to_join_;
  }
  if (expected.error.code() != response.error.code()) {
    return Violation(fmt::format("'{}' ends in {} instead of {}", response.name,
                                 response.error.ToString(), ToString(expected.error.code())));
  }
  if (!response.error.ok()) return;
  if (!(expected.params == response.params) || expected.first_dims != response.first_dims) {
    Violation(fmt::format("'{}' has other parameters than were submitted", response.name));
  }
}

void Ledger::Tuned(int rank, const Tuning& tuning) {
  const TunedAt now{of(rank).executed, tuning};
  const std::size_t index = of(rank).tunings++;
  if (index == tunings_.size()) {
    tunings_.push_back(now);
  } else if (!(tunings_[index] == now)) {
    Violation(
        fmt::format("rank {} is tuned before response {}, another rank before {} or otherwise",
                    rank, now.index, tunings_[index].index));
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
                                   rank, ranks_[rank].pending.begin()->first));
    }
    if (!ranks_[rank].failed && ranks_[rank].executed != history_.size()) {
      return Violation(fmt::format("rank {} has executed {} of {} responses", rank,
                                   ranks_[rank].executed, history_.size()));
    }
    if (!ranks_[rank].failed && ranks_[rank].tunings != tunings_.size()) {
      return Violation(fmt::format("rank {} was tuned {} of {} times", rank, ranks_[rank].tunings,
                                   tunings_.size()));
    }
  }
}

bool Ledger::IsPending(int rank, const std::string& name) const {
  return of(rank).pending.contains(name);
}

}  // namespace hora::sim

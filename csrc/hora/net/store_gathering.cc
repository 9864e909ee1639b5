#include "hora/net/store_gathering.h"

#include <algorithm>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr Duration kFailureMemory = std::chrono::seconds(5);
// Ranks that start slowly are told, too, why another one will never come.
constexpr Duration kReportMemory = std::chrono::seconds(60);
constexpr std::size_t kMostFates = 4;  // in one message

}  // namespace

std::optional<StoreGathering::Outcome> StoreGathering::Come(MemberId member, MeetRequest request,
                                                            const std::string& address,
                                                            TimePoint now) {
  const int rank = request.rank;
  if (failure_ && now < failure_->until && !failure_->told.Contains(rank)) {
    failure_->told.Add(rank);
    return Outcome{{member}, Refusal{failure_->status}};
  }
  failure_.reset();
  if (present_.empty()) {
    size_ = request.size;
    size_from_ = fmt::format("rank {} ({})", rank, address);
  }
  if (request.size != size_) {
    return FailAll(member, rank,
                   Error(StatusCode::kMismatch,
                         "rank {} ({}) was started for {} ranks, {} for {}: start all ranks of a "
                         "job with the same size",
                         rank, address, request.size, size_from_, size_),
                   now);
  }
  if (rank >= size_) {
    return FailAll(
        member, rank,
        Error(StatusCode::kMismatch, "{} claims rank {} of {} ranks; allowed are 0 to {}", address,
              rank, size_, size_ - 1),
        now);
  }
  const auto claimed = present_.find(rank);
  if (claimed != present_.end() && claimed->second.client != request.client) {
    return FailAll(
        member, rank,
        Error(StatusCode::kMismatch, "rank {} is claimed by two processes: one at {} and one at {}",
              rank, claimed->second.address, address),
        now);
  }
  present_[rank] = {member, request.client, std::move(request.tells), address, now};
  left_.erase(rank);
  if (present_.size() < static_cast<std::size_t>(size_)) return std::nullopt;
  return Complete();
}

StoreGathering::Outcome StoreGathering::Complete() {
  Outcome outcome;
  MeetAnswer answer{.generation = ++generation_, .told = {}};
  for (auto& [rank, member] : present_) {
    outcome.members.push_back(member.id);
    answer.told.push_back(std::move(member.tells));
  }
  outcome.answer = std::move(answer);
  present_.clear();
  left_.clear();
  has_met_ = true;
  return outcome;
}

StoreGathering::Outcome StoreGathering::FailAll(MemberId member, int rank, Status status,
                                                TimePoint now) {
  Outcome outcome = FailPresent(std::move(status), RankSet::Of(rank), now + kFailureMemory);
  outcome.members.insert(outcome.members.begin(), member);
  return outcome;
}

// Each rank of a host that differs is a reason: who was told of one may begin again.
RankSet StoreGathering::ToldOfFailure(TimePoint now) const {
  return failure_ && now < failure_->until ? failure_->told : RankSet();
}

StoreGathering::Outcome StoreGathering::Refuse(Status status, TimePoint now) {
  if (has_met_) return {};
  return FailPresent(std::move(status), ToldOfFailure(now), now + kFailureMemory);
}

StoreGathering::Outcome StoreGathering::Report(int rank, Status status, TimePoint now) {
  if (has_met_) return {};
  RankSet told = ToldOfFailure(now);
  if (rank >= 0) told.Add(rank);
  return FailPresent(std::move(status), std::move(told), now + kReportMemory);
}

StoreGathering::Outcome StoreGathering::FailPresent(Status status, RankSet told, TimePoint until) {
  Outcome outcome{{}, Refusal{status}};
  failure_ = Failure{std::move(status), std::move(told), until};
  for (const auto& [present_rank, present] : present_) {
    outcome.members.push_back(present.id);
    failure_->told.Add(present_rank);
  }
  present_.clear();
  left_.clear();
  return outcome;
}

void StoreGathering::Leave(MemberId member) {
  const auto place = std::find_if(present_.begin(), present_.end(),
                                  [&](const auto& entry) { return entry.second.id == member; });
  if (place == present_.end()) return;
  left_[place->first] = fmt::format("came from {} and left again", place->second.address);
  present_.erase(place);
}

Status StoreGathering::GiveUp(MemberId member, TimePoint now) {
  const auto place = std::find_if(present_.begin(), present_.end(),
                                  [&](const auto& entry) { return entry.second.id == member; });
  if (place == present_.end()) return Status(StatusCode::kTimeout, "the meeting took too long");
  RankSet have;
  for (const auto& entry : present_) have.Add(entry.first);
  // Who gave up a moment ago had come: it is not what the others lack.
  RankSet tired;
  for (const auto& [rank, fate] : left_) {
    if (fate.empty()) tired.Add(rank);
  }
  RankSet missing = RankSet::AllOf(size_);
  missing.Remove(have);
  missing.Remove(tired);
  std::string text = fmt::format("have {}; missing {}", have.ToString(), missing.ToString());
  if (!tired.empty()) text += fmt::format("; waited and gave up {}", tired.ToString());
  const double waited = std::chrono::duration<double>(now - place->second.since).count();
  Status status = Error(StatusCode::kTimeout, "the {} ranks did not all meet within {:.3g} s: {}{}",
                        size_, waited, text, Fate(missing));
  left_[place->first] = "";
  present_.erase(place);
  return status;
}

// " (2 came from 10.0.0.3:999 and left again)"
std::string StoreGathering::Fate(const RankSet& missing) const {
  std::string text;
  std::size_t told = 0;
  for (const auto& [rank, fate] : left_) {
    if (!missing.Contains(rank) || told++ >= kMostFates) continue;
    text += fmt::format("{}{} {}", text.empty() ? " (" : ", ", rank, fate);
  }
  return text.empty() ? " (never seen)" : text + ")";
}

std::optional<StoreGathering::MemberId> StoreGathering::WaitingAs(int rank) const {
  const auto place = present_.find(rank);
  if (place == present_.end()) return std::nullopt;
  return place->second.id;
}

}  // namespace hora

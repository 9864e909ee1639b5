#include "sim/world.h"

#include <algorithm>
#include <array>

#include "hora/base/format.h"
#include "hora/wire/codec.h"

namespace hora::sim {
namespace {

constexpr std::array kSizes = {2, 3, 4, 5, 7, 8, 16, 33, 64, 128, 256, 1024};
// Far beyond the time that a world without absent ranks takes.
constexpr Duration kStallWarning = std::chrono::seconds(100);
constexpr Duration kStallAbort = std::chrono::seconds(300);
constexpr int kCodecOneIn = 8;  // messages that also pass through bytes

TimePoint At(std::int64_t us) { return TimePoint(std::chrono::microseconds(us)); }

}  // namespace

WorldOptions WorldOptions::FromSeed(std::uint64_t seed, int max_size) {
  Random random(Mix(seed, 0x0971));
  WorldOptions options;
  int size = random.Pick(kSizes);
  while (size > max_size) size = random.Pick(kSizes);
  // Large worlds are slow, and say little more with many names.
  const int budget = size > 200 ? 12 : size > 50 ? 60 : 400;
  options.workload.seed = seed;
  options.workload.size = size;
  options.workload.names = random.Between(1, std::min(budget / 2, 40));
  options.workload.rounds = random.Between(2, std::max(2, budget / options.workload.names));
  options.workload.change_one_in = random.Pick(std::array{0, 2, 5, 20});
  options.workload.disagree_one_in = random.Pick(std::array{0, 0, 3, 15});
  options.fan_out = random.Between(2, 16);
  options.cache_capacity =
      static_cast<std::uint32_t>(random.Pick(std::array{0, 1, 2, 3, 4, 8, 64}));
  options.lockstep = random.OneIn(3);
  options.max_delay_us = random.Pick(std::array{1, 10, 100, 5000});
  options.max_think_us = random.Pick(std::array{1, 10, 100, 1000});
  options.leavers = random.OneIn(3) ? random.Between(1, std::min(size, 3)) : 0;
  options.retunes = random.OneIn(2);
  return options;
}

WorldOptions WorldOptions::JoinFromSeed(std::uint64_t seed, int max_size) {
  WorldOptions options = FromSeed(seed, max_size);
  Random random(Mix(seed, 0x1017));
  options.joins = random.Between(1, std::min(options.workload.rounds, 4));
  options.workload.rounds -= options.workload.rounds % options.joins;
  options.lockstep = false;
  if (random.OneIn(2)) options.leavers = 0;
  return options;
}

WorldOptions WorldOptions::StallFromSeed(std::uint64_t seed, int max_size) {
  WorldOptions options = FromSeed(seed, max_size);
  options.leavers = 0;
  options.absentees = Random(Mix(seed, 0xAB5E)).Between(1, options.workload.size - 1);
  return options;
}

std::string WorldOptions::ToString() const {
  return fmt::format(
      "{} ranks, fan-out {}, cache of {}, {} names × {} rounds{}, change 1/{}, disagree 1/{}, "
      "delay "
      "{} µs, think {} µs, {} leave, {} absent, {} joins",
      workload.size, fan_out, cache_capacity, workload.names, workload.rounds,
      lockstep ? " in lockstep" : "", workload.change_one_in, workload.disagree_one_in,
      max_delay_us, max_think_us, leavers, absentees, joins);
}

World::World(WorldOptions options)
    : options_(options),
      random_(Mix(options.workload.seed, 0x3017)),
      workload_(options.workload),
      ledger_(options.workload.size) {
  const int size = options_.workload.size;
  const int total = workload_.names() * workload_.rounds();
  for (int rank = 0; rank < size; ++rank) {
    Rank& own = ranks_.emplace_back();
    own.negotiator = std::make_unique<Negotiator>(
        NegotiatorOptions{.position = TreePosition::Of(rank, size, options_.fan_out),
                          .cache_capacity = options_.cache_capacity,
                          .stall_warning = kStallWarning,
                          .stall_abort = kStallAbort});
    own.program = {.next_round = std::vector<int>(static_cast<std::size_t>(workload_.names())),
                   .left_to_submit = total,
                   .think_us = random_.Between(1, options_.max_think_us)};
    if (options_.joins > 0) BeginEpoch(rank);
    Schedule(What::kSubmit, rank, random_.Below(options_.max_think_us));
  }
  for (int i = 0; i < options_.leavers; ++i) {
    of(random_.Below(size)).program.leave_after = random_.Below(total + 1);
  }
  for (int absent = 0; absent < options_.absentees;) {
    Program& program = of(random_.Below(size)).program;
    if (program.absent) continue;
    program.absent = true;
    --program.left_to_submit;
    ++absent;
  }
}

std::string World::Run() {
  while (!events_.empty() && ledger_.ok()) {
    const Event event = events_.top();
    events_.pop();
    now_us_ = event.at;
    ++events_done_;
    switch (event.what) {
      case What::kSubmit:
        Submit(event.rank);
        break;
      case What::kDeliver:
        Deliver(event.rank, event.from);
        break;
      case What::kProgress:
        Progress(event.rank);
        break;
      case What::kTick:
        Tick(event.rank);
        break;
    }
  }
  if (ledger_.ok()) ledger_.Finish();
  if (ledger_.ok() && options_.absentees == 0) CheckCounts();
  if (ledger_.ok() && options_.absentees > 0) CheckStalls();
  return ledger_.violation();
}

void World::Schedule(What what, int rank, std::int64_t delay, int from) {
  events_.push({now_us_ + delay, random_.Next(), what, rank, from});
}

void World::Submit(int rank) {
  Rank& own = of(rank);
  Program& program = own.program;
  if (own.leaving || own.gone || own.negotiator->closed()) return;
  if (program.leave_after >= 0 && program.submitted >= program.leave_after) return Leave(rank);
  if (program.joined) {
    if (program.late == 0) return;
    --program.late;
  } else if (program.left_to_submit == 0) {
    const bool joins = program.epoch < options_.joins;
    return joins ? Join(rank) : void();
  }
  const int name = ChooseName(rank);
  if (name < 0) {
    own.asleep = true;
    return;
  }
  if (program.joined) {
    ++late_;
  } else {
    --program.left_to_submit;
  }
  SubmitName(rank, name);
}

void World::SubmitName(int rank, int name) {
  Rank& own = of(rank);
  Program& program = own.program;
  Request request = workload_.Ask(name, program.next_round[static_cast<std::size_t>(name)]++, rank);
  ++program.submitted;
  ledger_.Submitted(rank, request);
  own.negotiator->Submit(std::move(request), At(now_us_));
  WakeSubmitter(rank);
  Schedule(What::kProgress, rank, random_.Below(program.think_us));
}

void World::Join(int rank) {
  Rank& own = of(rank);
  own.program.joined = true;
  if (rank == 0) ledger_.RootHearsOfJoin(rank);
  // Later there is nobody who would submit the same.
  const bool more = own.program.epoch + 1 < options_.joins;
  own.program.late = more && random_.OneIn(3) ? random_.Between(1, 3) : 0;
  Request request{.name = std::string(kJoinName), .params = {.kind = OpKind::kJoin}};
  ledger_.Submitted(rank, request);
  own.negotiator->Submit(std::move(request), At(now_us_));
  WakeSubmitter(rank);
  Schedule(What::kProgress, rank, random_.Below(own.program.think_us));
}

int World::EndOfEpoch(int epoch) const {
  return options_.joins == 0 ? workload_.rounds()
                             : workload_.rounds() / options_.joins * (epoch + 1);
}

// Whoever stops early joins early; one rank per epoch does all, so that all is done.
void World::BeginEpoch(int rank) {
  Program& program = of(rank).program;
  program.joined = false;
  program.left_to_submit = 0;
  if (program.epoch == options_.joins) return;
  const int first = program.epoch == 0 ? 0 : EndOfEpoch(program.epoch - 1);
  for (int name = 0; name < workload_.names(); ++name) {
    // What came too late for the last epoch is the first round of this one.
    const bool pending = ledger_.IsPending(rank, workload_.NameOf(name));
    program.next_round[static_cast<std::size_t>(name)] = first + (pending ? 1 : 0);
    program.left_to_submit += EndOfEpoch(program.epoch) - first - (pending ? 1 : 0);
  }
  const auto diligent = Mix(options_.workload.seed, 0xD117, program.epoch) %
                        static_cast<std::uint64_t>(options_.workload.size);
  const bool does_all = diligent == static_cast<std::uint64_t>(rank) || random_.OneIn(4);
  if (!does_all) program.left_to_submit = random_.Below(program.left_to_submit + 1);
}

void World::Executed(int rank, const Response& response) {
  ledger_.Executed(rank, response);
  if (response.name != kJoinName) return;
  ++of(rank).program.epoch;
  BeginEpoch(rank);
  WakeSubmitter(rank);
}

// Any name that is not pending, so that the ranks' orders have nothing in common.
int World::ChooseName(int rank) {
  const int names = workload_.names();
  const int first = random_.Below(names);
  for (int i = 0; i < names; ++i) {
    const int name = (first + i) % names;
    if (IsDue(rank, name) && !ledger_.IsPending(rank, workload_.NameOf(name))) return name;
  }
  return -1;
}

bool World::IsDue(int rank, int name) {
  const Program& program = of(rank).program;
  const int round = program.next_round[static_cast<std::size_t>(name)];
  if (program.absent && name == 0 && round == workload_.rounds() - 1) return false;
  if (options_.lockstep) return round == program.round;
  return round < EndOfEpoch(std::min(program.epoch, options_.joins - 1));
}

void World::Leave(int rank) {
  of(rank).leaving = true;
  of(rank).negotiator->Leave();
  Schedule(What::kProgress, rank, random_.Below(of(rank).program.think_us));
}

void World::Deliver(int rank, int from) {
  Edge& edge = EdgeOf(from, rank);
  ControlMessage message = std::move(edge.under_way.front());
  edge.under_way.pop_front();
  if (of(rank).gone) return;
  if (random_.OneIn(kCodecOneIn)) {
    std::vector<std::byte> frame;
    if (!Encode(message, frame).ok()) ledger_.Violation("a message cannot be encoded");
    Result<ControlMessage> decoded = Decode(frame);
    if (!decoded || !(*decoded == message)) {
      return ledger_.Violation("a message does not survive the codec");
    }
    message = std::move(*decoded);
  }
  if (const auto* joined = std::get_if<Joined>(&message); joined != nullptr && rank == 0) {
    ledger_.RootHearsOfJoin(joined->rank);
  }
  of(rank).negotiator->Receive(from, std::move(message), At(now_us_));
  if (of(rank).progress_due) return;
  of(rank).progress_due = true;
  Schedule(What::kProgress, rank, random_.OneIn(2) ? 0 : random_.Below(options_.max_delay_us));
}

void World::Progress(int rank) {
  Rank& own = of(rank);
  own.progress_due = false;
  if (own.gone) return;
  if (rank == 0 && options_.retunes && random_.OneIn(8)) {
    wanted_ = {.fusion_threshold_bytes = random_.Next()};
    own.negotiator->Retune(*wanted_);
  }
  own.negotiator->Take(actions_);
  if (rank == 0) CheckTuning();
  Act(rank, actions_);
  // As soon as its shutdown has taken effect, a rank's process ends.
  if (own.leaving && own.negotiator->closed()) own.gone = true;
  if (options_.absentees > 0) ScheduleTick(rank);
}

// What the root wants holds from the next agreement on. One that a departure brought about was
// made before the wish.
void World::CheckTuning() {
  const auto& tunings = actions_.tunings;
  if (!wanted_ && !tunings.empty()) ledger_.Violation("the root is tuned against its will");
  if (!wanted_ || actions_.agreement_ends.empty() || options_.leavers > 0) return;
  const bool holds = tunings.size() == 1 && tunings[0].first == 0 && tunings[0].tuning == *wanted_;
  if (!holds) ledger_.Violation("the root's tuning is not in its next agreement");
  wanted_.reset();
}

void World::Tick(int rank) {
  of(rank).tick_at_us = kNever;
  of(rank).negotiator->Tick(At(now_us_));
  Progress(rank);
}

void World::ScheduleTick(int rank) {
  const TimePoint deadline = of(rank).negotiator->NextDeadline();
  if (deadline == TimePoint::max()) return;
  const auto at_us =
      std::chrono::ceil<std::chrono::microseconds>(deadline.time_since_epoch()).count();
  if (at_us >= of(rank).tick_at_us) return;
  of(rank).tick_at_us = at_us;
  Schedule(What::kTick, rank, std::max<std::int64_t>(at_us - now_us_, 0));
}

void World::Act(int rank, NegotiatorActions& actions) {
  for (auto& outgoing : actions.send) Send(rank, outgoing);
  std::size_t executed = 0;
  auto tuning = actions.tunings.begin();
  for (const std::size_t end : actions.agreement_ends) {
    for (; executed < end; ++executed) {
      for (; tuning != actions.tunings.end() && tuning->first == executed; ++tuning) {
        ledger_.Tuned(rank, tuning->tuning);
      }
      Executed(rank, *actions.execute[executed]);
    }
    ledger_.AgreementEnded(rank);
  }
  if (tuning != actions.tunings.end()) ledger_.Violation("a tuning belongs to no response");
  if (executed != actions.execute.size()) ledger_.Violation("a response belongs to no agreement");
  for (const auto& [name, status, entry] : actions.reject) ledger_.Rejected(rank, name, status);
  Rank& own = of(rank);
  for (StallSummary& summary : actions.stalled) own.stalls.push_back(std::move(summary));
  if (!actions.failure.ok()) {
    const bool expected = options_.absentees > 0 &&
                          actions.failure.code() == StatusCode::kStalled && own.failure.ok();
    if (!expected) {
      ledger_.Violation(fmt::format("rank {} fails: {}", rank, actions.failure.ToString()));
    }
    own.failure = actions.failure;
    ledger_.Failed(rank, actions.failure);
  }
  if (!actions.execute.empty()) {
    ledger_.Cached(rank, own.negotiator->agreement_count(), own.negotiator->cache());
  }
  const bool round_done = own.negotiator->pending_count() == 0 && ChooseName(rank) < 0;
  if (options_.lockstep && round_done) ++own.program.round;
  if (own.asleep) WakeSubmitter(rank);
}

void World::Send(int from, NegotiatorActions::Outgoing& outgoing) {
  Edge& edge = EdgeOf(from, outgoing.neighbour);
  edge.under_way.push_back(std::move(outgoing.message));
  const std::int64_t arrival = now_us_ + random_.Below(edge.delay_us + 1);
  edge.last_arrival = std::max(edge.last_arrival, arrival);
  // Same time, same edge: a tie must not overtake, hence one microsecond more than the last.
  Schedule(What::kDeliver, outgoing.neighbour, edge.last_arrival++ - now_us_, from);
  ++of(from).sent;
  ++messages_;
}

void World::WakeSubmitter(int rank) {
  of(rank).asleep = false;
  const Program& program = of(rank).program;
  if (program.left_to_submit > 0 || program.epoch < options_.joins) {
    Schedule(What::kSubmit, rank, random_.Below(of(rank).program.think_us + 1));
  }
}

// Nothing was forgotten, and nobody talks more than is needed.
void World::CheckCounts() {
  const auto done = static_cast<std::uint64_t>(ledger_.executed_count(0));
  const auto rounds = static_cast<std::uint64_t>(workload_.names() * workload_.rounds());
  const auto joins = static_cast<std::uint64_t>(options_.joins);
  const std::uint64_t least = options_.leavers > 0 ? 0 : rounds + joins;
  if (done < least || done > rounds + joins + late_) {
    return ledger_.Violation(fmt::format("{} responses in all, of {}", done, rounds + joins));
  }
  for (int rank = 0; rank < options_.workload.size; ++rank) {
    const TreePosition position = TreePosition::Of(rank, options_.workload.size, options_.fan_out);
    const auto children = static_cast<std::uint64_t>(position.children.size());
    const auto below = static_cast<std::uint64_t>(position.subtree.count());
    const auto leavers = static_cast<std::uint64_t>(options_.leavers);
    const std::uint64_t most =
        (rounds + joins + late_ + leavers) * (1 + children) + joins * below + late_;
    if (of(rank).sent > most) {
      ledger_.Violation(fmt::format("rank {} has sent {} messages, at most {} are needed", rank,
                                    of(rank).sent, most));
    }
  }
}

// Everybody has been told once who is missing, and has failed for that reason.
void World::CheckStalls() {
  RankSet absent;
  for (int rank = 0; rank < options_.workload.size; ++rank) {
    if (of(rank).program.absent) absent.Add(rank);
  }
  RankSet present = RankSet::AllOf(options_.workload.size);
  present.Remove(absent);
  for (int rank = 0; rank < options_.workload.size; ++rank) {
    const Rank& own = of(rank);
    if (own.failure.ok() || !(own.failure == of(0).failure)) {
      ledger_.Violation(fmt::format("rank {} ends in {}, rank 0 in {}", rank,
                                    own.failure.ToString(), of(0).failure.ToString()));
    }
    if (own.stalls.size() != 1 || own.stalls[0].name != workload_.NameOf(0) ||
        !(own.stalls[0].missing == absent) || !(own.stalls[0].submitted == present)) {
      ledger_.Violation(fmt::format("rank {} hears {} summaries, the first says that {} miss", rank,
                                    own.stalls.size(),
                                    own.stalls.empty() ? "?" : own.stalls[0].missing.ToString()));
    }
  }
}

World::Edge& World::EdgeOf(int from, int to) {
  const auto key = static_cast<std::uint64_t>(from) << 32 | static_cast<std::uint32_t>(to);
  const auto [edge, first] = edges_.try_emplace(key);
  if (first) edge->second.delay_us = random_.Between(1, options_.max_delay_us);
  return edge->second;
}

}  // namespace hora::sim

#include "hora/engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "hora/base/format.h"
#include "hora/cuda/cuda_runtime.h"
#include "hora/engine/agreement.h"
#include "hora/engine/farewell.h"
#include "hora/negotiation/wording.h"

namespace hora {
namespace {

std::string RanksText(const std::vector<int>& ranks) {
  RankSet set;
  for (const int rank : ranks) set.Add(rank);
  return hora::RanksText(set);
}

std::vector<int> AllRanks(int size) { return RankSet::AllOf(size).ranks(); }

}  // namespace

Result<Engine::Owner> Engine::Start(const Topology& topology, const Config& config, HostGroup group,
                                    RankDevice::Open open) {
  return Start(topology, config, JobGroup::OnOneHost(std::move(group)), std::move(open));
}

Result<Engine::Owner> Engine::Start(const Topology& topology, const Config& config, JobGroup group,
                                    RankDevice::Open open) {
  if (!open) open = [directory = config.network.plugin_directory] { return OpenCuda(directory); };
  try {
    HostGroup host = group.host;
    Reach reach{.layout = group.layout, .network = nullptr};
    std::unique_ptr<JobNetwork> network;
    if (group.network != nullptr) {
      auto opened = JobNetwork::Open(topology.rank, config, std::move(group));
      if (!opened) {
        for (const PeerSocket& peer : host.peers) close(peer.fd);
        return Fail(std::move(opened.error()));
      }
      network = std::move(*opened);
      reach.network = network->global_set();
    }
    return Owner(new Engine(topology, config, std::move(host), std::move(network), std::move(reach),
                            std::move(open)));
  } catch (const std::exception& failure) {  // no memory, no thread
    return Fail(Error(StatusCode::kResource, "rank {}: the engine cannot start: {}", topology.rank,
                      failure.what()));
  }
}

Engine::Engine(const Topology& topology, const Config& config, HostGroup group,
               std::unique_ptr<JobNetwork> network, Reach reach, RankDevice::Open open)
    : topology_(topology),
      config_(config),
      board_(group.board),
      network_(std::move(network)),
      liveness_(topology.rank, std::move(group.peers), group.board),
      tunables_(group.tunables),
      result_memory_(std::make_shared<ResultMemory>(config.data_plane.result_memory_bytes)),
      device_(std::make_shared<RankDevice>(topology.rank, topology.local_rank,
                                           config.device.pinned_bytes, std::move(open))),
      timeline_(topology.rank),
      observers_({&metrics_, &timeline_}),
      next_offset_(
          Board::BytesFor({.size = board_->size(), .window_bytes = board_->window_bytes()})) {
  if (config.autotune.enabled && topology.rank == 0) {
    autotune_ = std::make_unique<Autotune>(config, tunables_, topology.size);
  }
  global_ = MakeSet(0, {}, topology.rank, board_, std::move(reach));
  const std::lock_guard lock(sets_mutex_);
  sets_[0] = {.ranks = AllRanks(topology.size),
              .here = {},
              .set = global_,
              .symmetric = AllocatorOf(global_)};
}

void Engine::End::operator()(Engine* engine) const {
  const auto shut_down = [engine] { return engine->Shutdown(); };
  if (ComesToAnEnd(shut_down, engine->topology_.rank, "the engine")) delete engine;
}

std::shared_ptr<ProcessSet> Engine::MakeSet(int id, RankNames names, int place,
                                            std::shared_ptr<Board> board, Reach reach) {
  return ProcessSet::Make(
      ProcessSetOptions{.id = id,
                        .rank = place,
                        .names = std::move(names),
                        .layout = std::move(reach.layout),
                        .board = std::move(board),
                        .network = std::move(reach.network),
                        .ranks_on_host = topology_.local_size,
                        .tunables = tunables_,
                        .config = config_,
                        .resources = {.result_memory = result_memory_, .device = device_},
                        .observer = &observers_,
                        .autotune = id == 0 ? autotune_.get() : nullptr,
                        .on_failure = [this](const Status& cause) { FailAll(cause); }});
}

std::shared_ptr<SymmetricAllocator> Engine::AllocatorOf(std::shared_ptr<ProcessSet> set) const {
  return std::make_shared<SymmetricAllocator>(board_, std::move(set), config_.stall_abort);
}

Result<std::shared_ptr<ProcessSet>> Engine::Find(int id) const {
  if (id == 0) return global_;
  Result<Entry> entry = EntryOf(id);
  if (!entry) return Fail(std::move(entry.error()));
  return std::move(entry->set);
}

Result<Engine::Entry> Engine::EntryOf(int id) const {
  const std::lock_guard lock(sets_mutex_);
  const auto found = sets_.find(id);
  if (found == sets_.end()) {
    std::string ids;
    for (const auto& [each, entry] : sets_)
      ids += fmt::format("{}{}", ids.empty() ? "" : ", ", each);
    return Fail(Error(StatusCode::kInvalidArgument,
                      "process set {} does not exist; those that do: {}", id, ids));
  }
  if (found->second.set != nullptr) return found->second;
  return Fail(Error(StatusCode::kInvalidArgument, "rank {} is not in process set {} ({})",
                    topology_.rank, id, RanksText(found->second.ranks)));
}

std::vector<std::shared_ptr<ProcessSet>> Engine::Sets() const {
  std::vector<std::shared_ptr<ProcessSet>> sets;
  const std::lock_guard lock(sets_mutex_);
  for (const auto& [id, entry] : sets_) {
    if (entry.set != nullptr) sets.push_back(entry.set);
  }
  return sets;
}

std::map<int, std::vector<int>> Engine::RanksOfSets() const {
  std::map<int, std::vector<int>> ranks;
  const std::lock_guard lock(sets_mutex_);
  for (const auto& [id, entry] : sets_) ranks[id] = entry.ranks;
  return ranks;
}

Status Engine::CheckRanks(const std::vector<int>& ranks) const {
  const bool ascending =
      std::adjacent_find(ranks.begin(), ranks.end(), std::greater_equal<>()) == ranks.end();
  if (!ranks.empty() && ascending && ranks.front() >= 0 && ranks.back() < topology_.size) {
    return Status::Ok();
  }
  return Error(
      StatusCode::kInvalidArgument,
      "a process set of ranks [{}]; needed are ascending ranks between 0 and {}, each once",
      fmt::join(ranks, ", "), topology_.size - 1);
}

// No two boards of a job are taken for each other.
BoardOptions Engine::BoardOf(int id, std::size_t size) const {
  return {.size = static_cast<int>(size),
          .window_bytes = board_->window_bytes(),
          .generation = board_->generation() ^ (static_cast<std::uint64_t>(id) << 32)};
}

Result<int> Engine::AddProcessSet(const std::vector<int>& ranks) {
  if (Status status = CheckRanks(ranks); !status.ok()) return Fail(std::move(status));
  const std::lock_guard one_at_a_time(change_mutex_);
  // The place is used once, also when this fails: a rank that is late may still touch it.
  const int id = next_id_++;
  Entry entry{.ranks = ranks,
              .here = network_ == nullptr ? ranks : network_->OnThisHost(ranks),
              .offset = next_offset_};
  const BoardOptions options = BoardOf(id, std::max<std::size_t>(entry.here.size(), 1));
  if (!entry.here.empty()) next_offset_ += Board::BytesFor(options);

  Result<std::shared_ptr<Board>> created{nullptr};
  const bool creator = !entry.here.empty() && topology_.rank == entry.here.front();
  if (creator) created = Board::CreateWithin(*board_, entry.offset, options);
  Status status = Agree("hora.process_set.created", created ? Status::Ok() : created.error());
  if (status.ok()) {
    Result<std::shared_ptr<ProcessSet>> set = Enter(id, entry);
    if (set && *set != nullptr) {
      entry.set = *set;
      entry.symmetric = AllocatorOf(*set);
    }
    status = Agree("hora.process_set.entered", set ? Status::Ok() : set.error());
  }
  if (!status.ok()) {
    entry.symmetric = nullptr;
    entry.set = nullptr;
    if (creator && created) Board::FreeWithin(*board_, entry.offset, options);
    return Fail(Error(status.code(), "a process set of {} cannot be made: {}", RanksText(ranks),
                      status.message()));
  }
  const std::shared_ptr<ProcessSet> added = entry.set;
  {
    const std::lock_guard lock(sets_mutex_);
    sets_[id] = std::move(entry);
  }
  // Whoever failed the job before did not know of this set.
  if (added != nullptr && board_->aborted()) added->Abort(board_->abort_status());
  return id;
}

// This rank's part in a set whose board is there; null when it is not a member.
Result<std::shared_ptr<ProcessSet>> Engine::Enter(int id, const Entry& entry) {
  const RankNames names(entry.ranks);
  const int place = names.PlaceOf(topology_.rank);
  if (place < 0) return nullptr;
  Result<std::shared_ptr<Board>> board =
      Board::AttachWithin(*board_, entry.offset, BoardOf(id, entry.here.size()));
  if (!board) return Fail(std::move(board.error()));
  Reach reach{.layout = HostLayout({static_cast<int>(entry.ranks.size())}), .network = nullptr};
  if (network_ != nullptr) {
    reach.layout = network_->LayoutOf(entry.ranks);
    auto connected = network_->Connect(id, place, names, reach.layout);
    if (!connected) return Fail(std::move(connected.error()));
    reach.network = std::move(*connected);
  }
  try {
    return MakeSet(id, names, place, std::move(*board), std::move(reach));
  } catch (const std::exception& failure) {  // no memory, no thread
    return Fail(Status(StatusCode::kResource, failure.what()));
  }
}

Status Engine::RemoveProcessSet(int id) {
  if (id == 0) {
    return Error(StatusCode::kInvalidArgument, "the global process set (0) cannot be removed");
  }
  const std::lock_guard one_at_a_time(change_mutex_);
  Entry entry;
  {
    const std::lock_guard lock(sets_mutex_);
    const auto found = sets_.find(id);
    if (found == sets_.end()) {
      return Error(StatusCode::kInvalidArgument, "process set {} does not exist", id);
    }
    entry = found->second;
  }
  // A peer may be far behind with what is pending here; if it never comes, that is a stall.
  const Status left = entry.set != nullptr ? entry.set->Leave(config_.stall_abort) : Status::Ok();
  Status status = Agree("hora.process_set.left", left);
  if (!status.ok()) return status;
  if (!entry.here.empty() && topology_.rank == entry.here.front()) {
    Board::FreeWithin(*board_, entry.offset, BoardOf(id, entry.here.size()));
  }
  const std::lock_guard lock(sets_mutex_);
  sets_.erase(id);
  return Status::Ok();
}

Status Engine::Agree(const std::string& name, const Status& mine) {
  return AgreeOnStatus(*global_, name, mine, config_.stall_abort);
}

Result<std::shared_ptr<SymmetricMemory>> Engine::AllocateSymmetric(int id, std::size_t bytes,
                                                                   std::string_view what) {
  const Result<Entry> entry = EntryOf(id);
  if (!entry) return Fail(entry.error());
  // Hosts share none, and a flat backend would not use it.
  if (network_ != nullptr) return nullptr;
  return entry->symmetric->Allocate(bytes, what);
}

void Engine::FailAll(const Status& cause) {
  board_->Abort(topology_.rank, cause);
  for (const auto& set : Sets()) set->Abort(cause);
  if (network_ != nullptr) network_->Tell();
}

void Engine::Abort(const Status& cause) { FailAll(cause); }

Status Engine::Shutdown() {
  if (left_) return Status::Ok();
  Status all;
  const auto leave = [&](ProcessSet& set) {
    Status status = set.Leave();
    if (all.ok()) all = std::move(status);
  };
  for (const auto& set : Sets()) {
    if (set != global_) leave(*set);
  }
  leave(*global_);
  liveness_.SayGoodbye();
  if (network_ != nullptr) network_->SayGoodbye();
  left_ = all.ok();
  return all;
}

void Engine::CloseInForkedChild() noexcept {
  liveness_.CloseInForkedChild();
  if (network_ != nullptr) network_->CloseInForkedChild();
}

}  // namespace hora

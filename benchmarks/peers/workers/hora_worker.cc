// Worker over hora's data plane alone: one backend per lane, no negotiation, no Python.
// Modes: the lanes default (bulk), urgent and ordered; zero, an allreduce in symmetric memory.
// usage: hora_worker FOLDER RANKS
#include <sys/wait.h>

#include <map>

#include "hora/base/wait.h"
#include "hora/collectives/in_place_plan.h"
#include "hora/collectives/shm/shm_backend.h"
#include "hora/shm/symmetric_memory.h"
#include "hora/tensor/byte_stream.h"
#include "worker.h"

namespace peers {
namespace {

const std::map<std::string, hora::Lane> kModes = {
    {"default", hora::Lane::kBulk},
    {"urgent", hora::Lane::kUrgent},
    {"ordered", hora::Lane::kOrdered},
    {"zero", hora::Lane::kBulk},
};

void Require(const hora::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

class Hora final : public Library {
 public:
  Hora(int rank, const std::shared_ptr<hora::Board>& board) : rank_(rank), size_(board->size()) {
    const auto wait = hora::WaitPolicy::For(size_, hora::UsableCores());
    for (const hora::Lane lane : {hora::Lane::kUrgent, hora::Lane::kBulk, hora::Lane::kOrdered}) {
      const hora::ShmLaneOptions options{.lane = lane, .rank = rank, .wait = wait};
      backends_.emplace(lane, std::make_unique<hora::ShmBackend>(board, options));
    }
    heap_ = hora::SymmetricHeap::Create(board->fd(), 0, rank, size_).value();
    barrier_ = CallOf(hora::OpKind::kAllreduce);
    barrier_.bytes_per_rank = {sizeof(token_)};
    barrier_.inputs = {Stream(reinterpret_cast<std::byte*>(&token_), sizeof(token_))};
    barrier_.outputs = barrier_.inputs;
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void Barrier() override { Require(backends_.at(hora::Lane::kUrgent)->Execute(barrier_)); }
  void Run() override { Require(backend_->Execute(call_)); }

  void Prepare(Case& what) override {
    const auto mode = kModes.find(what.mode);
    const bool zero = what.mode == "zero";
    if (mode == kModes.end() || (zero && what.op != Op::kAllreduce)) {
      throw Unsupported("mode " + what.mode);
    }
    backend_ = backends_.at(mode->second).get();
    if (zero) MakeSymmetric(what);
    const hora::OpKind kinds[] = {hora::OpKind::kAllreduce, hora::OpKind::kAllgather,
                                  hora::OpKind::kBroadcast, hora::OpKind::kReducescatter,
                                  hora::OpKind::kAlltoall};
    call_ = CallOf(kinds[static_cast<int>(what.op)]);
    call_.params.dtype = what.type == Type::kFloat32   ? hora::DType::kFloat32
                         : what.type == Type::kFloat16 ? hora::DType::kFloat16
                                                       : hora::DType::kBFloat16;
    const std::size_t part = what.bytes() / static_cast<std::size_t>(size_);
    const auto ranks = static_cast<std::size_t>(size_);
    const bool in_parts = what.op == Op::kReducescatter || what.op == Op::kAlltoall;
    const bool out_parts = what.op == Op::kAllgather || what.op == Op::kAlltoall;
    const bool whole = what.op == Op::kAllreduce || what.op == Op::kBroadcast;
    call_.bytes_per_rank.assign(whole                      ? 1
                                : what.op == Op::kAlltoall ? ranks * ranks
                                                           : ranks,
                                whole ? what.bytes() : part);
    call_.tensor_bytes = {what.bytes()};
    call_.inputs = in_parts ? Parts(what.input, part)
                            : std::vector{Stream(what.input, whole ? what.bytes() : part)};
    call_.outputs = out_parts ? Parts(what.output, part)
                              : std::vector{Stream(what.output, whole ? what.bytes() : part)};
    if (zero) call_.in_place = &plan_;
  }

 private:
  // Puts the operand into memory that all ranks see, at the same place.
  void MakeSymmetric(Case& what) {
    if (region_ == nullptr || region_->slice().size() < what.bytes()) {
      region_ = heap_->Map(what.bytes()).value();
      Require(region_->MakeSlice());
      Barrier();
      region_->MapOthers();
    }
    what.input = what.output = region_->slice().data();
    plan_ = {};
    plan_.digest = what.bytes();
    plan_.bytes = what.bytes();
    plan_.ranges = {{region_->first_slice(), region_->stride(), what.bytes()}};
  }

  static hora::ByteStream Stream(std::byte* data, std::size_t bytes) {
    return hora::ByteStream({std::span(data, bytes)});
  }
  std::vector<hora::ByteStream> Parts(std::byte* data, std::size_t part) const {
    std::vector<hora::ByteStream> parts;
    for (std::size_t r = 0; r < static_cast<std::size_t>(size_); ++r) {
      parts.push_back(Stream(data + r * part, part));
    }
    return parts;
  }
  hora::CollectiveCall CallOf(hora::OpKind kind) const {
    hora::CollectiveCall call;
    call.params.kind = kind;
    call.params.reduce_op = hora::ReduceOp::kSum;
    call.params.root_rank = kind == hora::OpKind::kBroadcast ? 0 : -1;
    call.size = size_;
    return call;
  }

  int rank_;
  int size_;
  std::map<hora::Lane, std::unique_ptr<hora::ShmBackend>> backends_;
  std::shared_ptr<hora::SymmetricHeap> heap_;
  std::shared_ptr<hora::SymmetricMemory> region_;  // for the mode zero; only grows
  hora::InPlacePlan plan_;
  hora::ShmBackend* backend_ = nullptr;
  hora::CollectiveCall call_;
  hora::CollectiveCall barrier_;
  float token_ = 0;
};

int RunRanks(const std::string& folder, int ranks) {
  auto board = hora::Board::Create({.size = ranks});
  if (!board) {
    std::fprintf(stderr, "%s\n", board.error().ToString().c_str());
    return 1;
  }
  for (int rank = 0; rank < ranks; ++rank) {
    if (fork() == 0) {
      Hora library(rank, *board);  // chooses how to wait by the cores of the whole job
      PinTo(rank);
      std::_Exit(Serve(library, folder));
    }
  }
  int failures = 0;
  for (int status = 0; wait(&status) > 0;) failures += status != 0 ? 1 : 0;
  return failures;
}

}  // namespace
}  // namespace peers

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  return peers::RunRanks(argv[1], std::atoi(argv[2]));
}

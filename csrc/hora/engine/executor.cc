#include "hora/engine/executor.h"

#include <numeric>
#include <utility>

#include "hora/base/check.h"
#include "hora/collectives/adasum.h"
#include "hora/engine/process_set_text.h"
#include "hora/engine/split_exchange.h"

namespace hora {
namespace {

constexpr std::size_t kScratchAlignment = 64;

bool IsAdasum(const OpParams& params) {
  return params.kind == OpKind::kAllreduce && params.reduce_op == ReduceOp::kAdasum;
}

TensorView ViewOf(const OpParams& params, std::size_t tensor) {
  return {.data = nullptr,
          .dtype = params.dtype_of(tensor),
          .device = params.device,
          .shape = params.shape_of(tensor)};
}

std::size_t AlignedBytes(const TensorView& view) {
  return (view.nbytes() + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
}

// The rows of one tensor of an allgather, by rank.
std::vector<std::int64_t> RowsByRank(const Response& response, std::size_t tensor) {
  const std::size_t tensors = response.params.tensor_count();
  std::vector<std::int64_t> rows;
  rows.reserve(response.first_dims.size() / tensors);
  for (std::size_t i = tensor; i < response.first_dims.size(); i += tensors) {
    rows.push_back(response.first_dims[i]);
  }
  return rows;
}

}  // namespace

Executor::Executor(ExecutorOptions options,
                   std::vector<std::unique_ptr<CollectiveBackend>> backends,
                   std::unique_ptr<DeviceLane> device, TensorQueue& queue, Observer& observer)
    : options_(std::move(options)),
      backends_(std::move(backends)),
      queue_(queue),
      observer_(observer),
      plan_(options_.size),
      device_(std::move(device)) {
  Retune(options_.tuning);
}

void Executor::Retune(const Tuning& tuning) {
  options_.tuning = tuning;
  for (const auto& backend : backends_) backend->Retune(tuning);
}

void Executor::LookForSymmetricMemory(std::shared_ptr<const SymmetricHeap> heap) {
  placement_.emplace(std::move(heap));
}

Status Executor::Execute(std::span<const Agreed> agreed) {
  Begin(agreed);
  const auto threshold = static_cast<std::size_t>(options_.tuning.fusion_threshold_bytes);
  for (const Batch& batch : plan_.For(agreed, threshold)) {
    if (Status status = ExecuteBatch(batch, agreed); !status.ok()) return status;
  }
  return Status::Ok();
}

void Executor::CloseDevice(TimePoint deadline) {
  if (device_ == nullptr || device_->Close(deadline)) return;
  // Results, too, that were never handed out.
  LeaveToDevice(std::make_shared<std::vector<InFlight>>(std::exchange(in_flight_, {})));
}

void Executor::Begin(std::span<const Agreed> agreed) {
  in_flight_.clear();
  bool absent = false;
  for (const auto& [response, entry] : agreed) {
    InFlight& in_flight = in_flight_.emplace_back();
    if (!response->error.ok()) {
      Refuse(entry, response->error);
    } else if (!response->absent.Contains(options_.rank)) {
      Check(entry != nullptr, "what was agreed is pending on every rank");
      in_flight.entry = entry;
      in_flight.open_tensors = response->params.tensor_count();
    } else {
      absent = true;
    }
  }
  if (!absent) scratch_ = {};
}

Status Executor::ExecuteBatch(const Batch& batch, std::span<const Agreed> agreed) {
  const Response& first = *agreed[batch.members.front().response];
  Status status;
  mark_.reset();
  if (IsOnDevice(batch.params)) {
    bool refused = false;
    status = OpenDevice(batch, refused);
    if (!status.ok() || refused) return status;
  }
  switch (batch.params.kind) {
    case OpKind::kBarrier:  // all ranks have arrived, which is all that these ask for
    case OpKind::kJoin:
      break;
    case OpKind::kAlltoall:
      status = Alltoall(batch, first);
      break;
    default:
      status = Fused(batch, agreed);
  }
  if (status.ok()) BatchDone(batch, agreed);
  return status;
}

Status Executor::Fused(const Batch& batch, std::span<const Agreed> agreed) {
  const Response& first = *agreed[batch.members.front().response];
  buffers_.clear();
  const bool is_absent = first.absent.Contains(options_.rank);
  Status status = is_absent ? MakeScratch(batch, agreed) : FindBuffers(batch, agreed);
  if (!status.ok()) return status;
  CollectiveCall call{.params = batch.params,
                      .size = options_.size,
                      .bytes_per_rank = batch.bytes_per_rank,
                      .inputs = InputStreams(batch, agreed, buffers_, options_.size),
                      .outputs = OutputStreams(batch, agreed, buffers_, options_.size),
                      .absent = first.absent,
                      .divisor = DivisorOf(first),
                      .fused = batch.members.size() > 1};
  if (IsAdasum(batch.params)) {
    for (const MemberBuffers& each : buffers_) call.tensor_bytes.push_back(each.input.nbytes());
  } else if (placement_ && IsWorthPlacing(call)) {
    call.in_place = &placement_->Plan(buffers_);
  }
  return Run(call, batch, first);
}

// A function of agreed data: the ranks meet for it, whatever each of them finds.
bool Executor::IsWorthPlacing(const CollectiveCall& call) const {
  return call.params.kind == OpKind::kAllreduce && !IsOnDevice(call.params) &&
         call.absent.empty() && call.bytes_per_rank[0] > options_.tuning.small_allreduce_bytes;
}

// Refused: some rank of the set has no GPU; all ranks know which, and go on with other things.
Status Executor::OpenDevice(const Batch& batch, bool& refused) {
  Check(device_ != nullptr, "operations on a device take the lane that has one");
  if (Status status = device_->Open(); !status.ok()) return status;
  refused = !device_->refusal().ok();
  EventPool::Lease awaited;
  for (const Batch::Member& member : batch.members) {
    TensorEntry*& entry = in_flight_[member.response].entry;
    if (entry == nullptr) continue;
    if (refused) {
      Refuse(std::exchange(entry, nullptr), device_->refusal());
    } else if (awaited != entry->ready) {
      awaited = entry->ready;
      if (Status status = device_->StartAfter(awaited); !status.ok()) return status;
    }
  }
  return Status::Ok();
}

Status Executor::FindBuffers(const Batch& batch, std::span<const Agreed> agreed) {
  for (const Batch::Member& member : batch.members) {
    const TensorEntry& entry = *in_flight_[member.response].entry;
    if (member.tensor == 0) {
      buffers_.push_back({entry.input, entry.output});
    } else {
      const TensorPair& pair = entry.rest[member.tensor - 1];
      buffers_.push_back({pair.input, pair.output});
    }
    if (batch.params.kind != OpKind::kAllgather) continue;
    const Response& response = *agreed[member.response];
    TensorView& output = buffers_.back().output = ViewOf(response.params, member.tensor);
    Result<std::shared_ptr<Gathered>> gathered =
        Allocate(RowsByRank(response, member.tensor), output);
    if (!gathered) return gathered.error();
    auto& results = in_flight_[member.response].gathered;
    results.resize(response.params.tensor_count());
    results[member.tensor] = std::move(*gathered);
  }
  return Status::Ok();
}

Result<std::shared_ptr<Gathered>> Executor::Allocate(std::vector<std::int64_t> rows,
                                                     TensorView& view) {
  view.shape = view.shape.WithFirstDim(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}));
  std::shared_ptr<Gathered> gathered;
  if (view.device.type == DeviceType::kCpu) {
    gathered = std::make_shared<Gathered>(std::move(rows), view.nbytes(), options_.result_memory);
  } else {
    Result<std::shared_ptr<std::byte>> memory = device_->AllocateResult(view.nbytes());
    if (!memory) return Fail(std::move(memory.error()));
    gathered = std::make_shared<Gathered>(std::move(rows), view.nbytes(), device_->device(),
                                          std::move(*memory));
  }
  view.data = gathered->bytes().data();
  return gathered;
}

// This rank has joined: it takes part in the work with memory that nobody reads.
Status Executor::MakeScratch(const Batch& batch, std::span<const Agreed> agreed) {
  std::size_t needed = 0;
  for (const Batch::Member& member : batch.members) {
    const TensorView view = ViewOf(agreed[member.response]->params, member.tensor);
    buffers_.push_back({view, view});
    needed += AlignedBytes(view);
  }
  Result<std::byte*> next = Scratch(needed, batch.params.device);
  if (!next) return next.error();
  for (MemberBuffers& each : buffers_) {
    each.input.data = each.output.data = *next;
    *next += AlignedBytes(each.input);
  }
  return Status::Ok();
}

Result<std::byte*> Executor::Scratch(std::size_t bytes, const Device& device) {
  if (device.type == DeviceType::kCpu) {
    if (bytes > scratch_.size()) scratch_.resize(bytes);
    return scratch_.data();
  }
  const Result<std::span<std::byte>> memory = device_->Scratch(bytes);
  if (!memory) return Fail(memory.error());
  return memory->data();
}

Status Executor::Alltoall(const Batch& batch, const Response& response) {
  InFlight& in_flight = in_flight_[batch.members.front().response];
  TensorEntry& entry = *in_flight.entry;
  const OpParams integers{.kind = OpKind::kAllgather, .dtype = DType::kInt64, .shape = Shape{0}};
  Result<SplitTable> table = ExchangeSplits(BackendFor(integers), integers, entry.splits);
  if (!table) return table.error();
  const TensorView& input = entry.input;
  Result<std::vector<std::uint64_t>> bytes = table->Bytes(
      static_cast<std::uint64_t>(input.shape.elements_per_row()) * SizeOf(input.dtype));
  if (!bytes) {  // all ranks see the same table, so they all come here
    Refuse(std::exchange(in_flight.entry, nullptr), bytes.error());
    return Status::Ok();
  }

  TensorView output = ViewOf(response.params, 0);
  std::vector<std::int64_t> received = table->ReceivedBy(options_.rank);
  Result<std::shared_ptr<Gathered>> gathered = Allocate(received, output);
  if (!gathered) return gathered.error();
  in_flight.gathered.push_back(std::move(*gathered));
  CollectiveCall call{.params = batch.params,
                      .size = options_.size,
                      .bytes_per_rank = std::move(*bytes),
                      .inputs = SplitByRows(input, entry.splits),
                      .outputs = SplitByRows(output, received)};
  return Run(call, batch, response);
}

Status Executor::Run(CollectiveCall& call, const Batch& batch, const Response& first) {
  const OpLabel label{options_.process_set, batch.params.kind, first.name, options_.bulk};
  std::uint64_t bytes = 0;
  for (const ByteStream& input : call.inputs) bytes += input.size();
  moved_bytes_ += bytes;
  observer_.OnBatchBegin(label, batch.members.size(), bytes);
  const Status status = Dispatch(call);
  if (call.in_place != nullptr && call.in_place->done) {
    observer_.OnInPlace(label, call.in_place->bytes);
  }
  observer_.OnBatchEnd(label, status);
  return status;
}

Status Executor::Dispatch(CollectiveCall& call) {
  if (!IsOnDevice(call.params)) {
    return IsAdasum(call.params) ? RunAdasum(BackendForAdasum(call.params), options_.rank, call)
                                 : BackendFor(call.params).Execute(call);
  }
  call.stream = device_->stream();
  if (Status status = device_->BackendFor(call.params).Execute(call); !status.ok()) return status;
  Result<EventPool::Lease> mark = device_->Mark();
  if (!mark) return mark.error();
  mark_ = std::move(*mark);
  return Status::Ok();
}

// Operations whose last tensors were in the batch are done. Their names are free before anybody can
// know that.
void Executor::BatchDone(const Batch& batch, std::span<const Agreed> agreed) {
  done_.clear();
  entries_.clear();
  for (const Batch::Member& member : batch.members) {
    InFlight& in_flight = in_flight_[member.response];
    if (in_flight.entry == nullptr || --in_flight.open_tensors != 0) continue;
    done_.push_back(member.response);
    entries_.push_back(std::exchange(in_flight.entry, nullptr));
  }
  queue_.Remove(entries_, handles_);
  for (std::size_t i = 0; i < done_.size(); ++i) {
    const Response& response = *agreed[done_[i]];
    const OpKind kind = response.params.kind;
    observer_.OnComplete({options_.process_set, kind, response.name}, Status::Ok());
    Outcome outcome{.gathered = std::move(in_flight_[done_[i]].gathered), .on_device = mark_};
    if (kind == OpKind::kJoin) outcome.last_joined = options_.names.Of(response.params.root_rank);
    handles_[i]->Complete(Status::Ok(), std::move(outcome));
  }
  handles_.clear();
}

void Executor::Refuse(TensorEntry* entry, const Status& error) {
  if (entry == nullptr) return;  // an error about a tensor that this rank never submitted
  const OpKind kind = entry->request.params.kind;
  const std::shared_ptr<Handle> handle = queue_.Remove(entry);
  const Status status = InProcessSet(options_.process_set, error);
  observer_.OnComplete({options_.process_set, kind, handle->name()}, status);
  handle->Complete(status);
}

int Executor::DivisorOf(const Response& response) const {
  if (options_.join_divides_by_size || response.absent.empty()) return options_.size;
  return options_.size - response.absent.count();
}

// Adasum is made of collectives that move bytes; any reduction stands for them.
CollectiveBackend& Executor::BackendForAdasum(OpParams params) {
  params.reduce_op = ReduceOp::kSum;
  return BackendFor(params);
}

CollectiveBackend& Executor::BackendFor(const OpParams& params) {
  for (const auto& backend : backends_) {
    if (backend->Supports(params)) return *backend;
  }
  Check(false, "some backend supports whatever passes CheckSubmission");
  return *backends_.front();
}

}  // namespace hora

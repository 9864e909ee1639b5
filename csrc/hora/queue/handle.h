// The promise that a submitted operation will complete, exactly once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hora/base/status.h"
#include "hora/cuda/device_memory.h"
#include "hora/tensor/device.h"
#include "hora/tensor/result_memory.h"

namespace hora {

// The bytes of an allgather or alltoall, in rank order, allocated when their number was known; on
// the host or on a device.
class Gathered {
 public:
  // 64-byte aligned; large ones come from `memory` and go back to it.
  Gathered(std::vector<std::int64_t> rows_by_rank, std::size_t bytes,
           const std::shared_ptr<ResultMemory>& memory)
      : rows_by_rank_(std::move(rows_by_rank)),
        size_(bytes),
        on_host_(ResultMemory::Allocate(memory, bytes)) {}
  // `memory` of the device has at least that many bytes.
  Gathered(std::vector<std::int64_t> rows_by_rank, std::size_t bytes, Device device,
           std::shared_ptr<std::byte> memory)
      : rows_by_rank_(std::move(rows_by_rank)),
        size_(bytes),
        device_(device),
        on_device_(std::move(memory)) {}

  const std::vector<std::int64_t>& rows_by_rank() const { return rows_by_rank_; }
  std::span<std::byte> bytes() const {
    return {device_.type == DeviceType::kCpu ? on_host_.get() : on_device_.get(), size_};
  }
  const Device& device() const { return device_; }
  const std::shared_ptr<std::byte>& on_device() const { return on_device_; }  // null: on the CPU

 private:
  std::vector<std::int64_t> rows_by_rank_;
  std::size_t size_;
  Device device_;
  ResultMemory::Piece on_host_;
  std::shared_ptr<std::byte> on_device_;
};

// What there is of an operation once its handle is done.
struct Outcome {
  std::vector<std::shared_ptr<Gathered>> gathered;  // allgather, alltoall: one per tensor
  int last_joined = -1;                             // join: the global rank that joined last
  // Of tensors on a device: what reads the results there, or changes the operands, comes after it,
  // also where the operation has failed on its way. Null: the device has nothing of it.
  EventPool::Lease on_device;
};

// Any thread may look; the engine completes. The results are only valid once done().
class Handle {
 public:
  explicit Handle(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  bool done() const { return done_.load(); }
  const Status& status() const { return status_; }
  const Outcome& outcome() const { return outcome_; }
  const std::vector<std::shared_ptr<Gathered>>& gathered() const { return outcome_.gathered; }
  int last_joined() const { return outcome_.last_joined; }

  // Whether it is expected to take the bulk lane: a hint for who waits. Set before it is submitted.
  bool is_bulk() const { return is_bulk_; }
  void set_bulk(bool is_bulk) { is_bulk_ = is_bulk; }

  // A second completion is a broken invariant.
  void Complete(Status status, Outcome outcome = {});

 private:
  const std::string name_;
  Status status_;
  Outcome outcome_;
  bool is_bulk_ = false;
  std::atomic<bool> done_{false};
};

}  // namespace hora

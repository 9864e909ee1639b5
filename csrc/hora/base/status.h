// What went wrong, as a value: it travels into handles and across ranks, and becomes an exception
// only at the Python edge.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace hora {

// The numeric values are part of the wire format (wire/control.fbs): append, never renumber.
enum class StatusCode : std::uint8_t {
  kOk = 0,
  kInvalidArgument = 1,  // this rank's own mistake, reported before anything is enqueued
  kMismatch = 2,         // ranks disagree about a tensor; reported on every rank
  kPeerFailed = 3,       // another rank died or cannot be reached
  kStalled = 4,          // some rank never submitted an op before the abort time
  kShutDown = 5,         // this rank, or one that the op needs, has left
  kNotInitialized = 6,   // called before init or after shutdown
  kTimeout = 7,          // a wait reached its deadline
  kResource = 8,         // memory, descriptors or another limit of the machine
  kInternal = 9,         // a broken invariant of hora itself
};

std::string_view ToString(StatusCode code);

// A value type; copying copies the message. OK carries no allocation.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status Ok() { return {}; }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // "MISMATCH: allreduce 'w': …", for logs.
  std::string ToString() const;

  friend bool operator==(const Status&, const Status&) = default;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

}  // namespace hora

#include "hora/base/status.h"

namespace hora {

std::string_view ToString(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case StatusCode::kMismatch:
      return "MISMATCH";
    case StatusCode::kPeerFailed:
      return "PEER_FAILED";
    case StatusCode::kStalled:
      return "STALLED";
    case StatusCode::kShutDown:
      return "SHUT_DOWN";
    case StatusCode::kNotInitialized:
      return "NOT_INITIALIZED";
    case StatusCode::kTimeout:
      return "TIMEOUT";
    case StatusCode::kResource:
      return "RESOURCE";
    case StatusCode::kInternal:
      return "INTERNAL";
  }
  return "UNKNOWN";
}

std::string Status::ToString() const {
  std::string text(hora::ToString(code_));
  if (!message_.empty()) text.append(": ").append(message_);
  return text;
}

}  // namespace hora

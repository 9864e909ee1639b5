#include "hora/bindings/raise.h"

#include <pybind11/pybind11.h>

namespace hora::bindings {
namespace {

namespace py = pybind11;

const char* ExceptionFor(StatusCode code) {
  switch (code) {
    case StatusCode::kInvalidArgument:
      return "UsageError";
    case StatusCode::kMismatch:
      return "MismatchError";
    case StatusCode::kPeerFailed:
      return "PeerFailedError";
    case StatusCode::kStalled:
      return "StallError";
    case StatusCode::kShutDown:
      return "ShutDownError";
    case StatusCode::kNotInitialized:
      return "NotInitializedError";
    case StatusCode::kTimeout:
      return "WaitTimeoutError";
    case StatusCode::kResource:
      return "ResourceError";
    case StatusCode::kOk:
    case StatusCode::kInternal:
      break;
  }
  return "InternalError";
}

}  // namespace

void Raise(const Status& status) {
  const py::object exception = py::module_::import("hora.errors").attr(ExceptionFor(status.code()));
  PyErr_SetString(exception.ptr(), status.message().c_str());
  throw py::error_already_set();
}

}  // namespace hora::bindings

// Python from the engine's threads.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

namespace hora::bindings {

// Holds the GIL while it lives; blocks until it has it. Not ok: the interpreter is ending, and
// whoever asked for the GIL now would be killed or kept for ever: there is no Python any more. Any
// thread, on its stack, also one that has the GIL.
class InsidePython {
 public:
  InsidePython();
  ~InsidePython();
  InsidePython(const InsidePython&) = delete;
  InsidePython& operator=(const InsidePython&) = delete;

  bool ok() const { return gil_.has_value(); }

  // From the interpreter's end on nobody comes in; it waits for those who are inside, but some
  // seconds at most. Once, with the GIL, when the module is imported: then it is among the last
  // things that happen at exit, while Python still works.
  static void CloseAtExit();

 private:
  std::optional<pybind11::gil_scoped_acquire> gil_;
};

}  // namespace hora::bindings

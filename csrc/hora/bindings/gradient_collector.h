// The gradients of one optimizer on their way to the engine, with no Python in between.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hora/bindings/bound_handle.h"
#include "hora/engine/process_set.h"

namespace hora::bindings {

// What the collector is to do with gradients, and whom it asks.
struct CollectorOptions {
  OpParams params;  // kind, operator and scales
  int process_set = 0;
  int passes = 1;               // backward passes that make a gradient
  pybind11::object on_ready;    // (index): autograd has made a gradient that Python must submit
  pybind11::object on_overrun;  // (index): … one more than `passes`; raises
  pybind11::object on_foreign;  // (index): … that does not fit into the parameter's view
};

// Counts backward passes, knows for every parameter whether its gradient waits to be reduced or is
// being so, and submits those that are dense and floating, on the CPU or a GPU: the others are the
// caller's, who says so by Take. All members are called with the GIL held; Wait releases it while
// it blocks. Keeps the parameters, and the gradients between OnGradient and Forget.
//
// `early`: a gradient is submitted as soon as autograd has made it. Otherwise all wait for Submit,
// and the thread that waits next does everything: best when no core is to spare.
class GradientCollector {
 public:
  explicit GradientCollector(CollectorOptions options) : options_(std::move(options)) {}
  GradientCollector(const GradientCollector&) = delete;
  GradientCollector& operator=(const GradientCollector&) = delete;

  // `direct`: the gradient is reduced by itself and as it is, so the collector may submit it.
  void Add(pybind11::object parameter, bool direct);
  void SetKey(std::size_t index, std::string key) { slot(index).key = std::move(key); }
  void SetDirect(std::size_t index, bool direct) { slot(index).direct = direct; }
  // The parameter's gradient is to lie in this tensor, dense and of its shape and dtype.
  void SetView(std::size_t index, pybind11::object view);
  void SetPasses(int passes);

  void OnGradient(std::size_t index);  // autograd has accumulated it

  // Submits what waits for it; the number of gradients under way then, those taken included. What
  // cannot be submitted is left as though it had not come.
  std::size_t Submit();
  // Blocks until the host is done with all that was submitted here; the current stream of a GPU
  // goes on after it. Raises what a signal handler raised.
  void Wait();
  // Of those: (index, still the parameter's gradient and unchanged, the operation's error or None),
  // where something is amiss.
  pybind11::list Troubles() const;
  pybind11::list Gradients() const;  // all that were reduced here

  void Take(std::size_t index);  // the caller is reducing this one
  bool IsUnderWay(std::size_t index) const;
  int PassesLeft(std::size_t index) const { return slots_.at(index).passes_left; }
  bool has_pending() const { return pending_ != 0; }
  void Forget();     // all may be computed anew
  void StartOver();  // those may that are not under way

  bool reduced = false;  // nothing came since the caller last said that all is done
  bool early = false;
  bool accumulates_only = false;  // count no passes

 private:
  enum class State : std::uint8_t { kAwaited, kNoted, kUnderWay, kTaken };

  struct Slot {
    pybind11::object parameter;
    std::string key;
    int passes_left = 1;
    bool direct = true;
    State state = State::kAwaited;
    pybind11::object view;  // null: none
    TensorView view_memory;
    pybind11::object gradient;          // from kNoted on
    long version = 0;                   // of the gradient, when it was noted
    std::optional<BoundHandle> handle;  // when kUnderWay
  };

  Slot& slot(std::size_t index) { return slots_.at(index); }
  bool Note(Slot& slot);
  void PutIntoView(std::size_t index);
  bool FindSet();
  bool SubmitOne(Slot& slot, bool will_wait);
  void Move(Slot& slot, State state);
  void FlushIfLast();
  static bool IsOurs(const Slot& slot);

  const CollectorOptions options_;
  int passes_ = options_.passes;
  std::vector<Slot> slots_;
  std::size_t pending_ = 0;          // not kAwaited
  std::size_t last_pending_ = 0;     // … in the step before, at its end
  std::shared_ptr<ProcessSet> set_;  // of what is under way
};

}  // namespace hora::bindings

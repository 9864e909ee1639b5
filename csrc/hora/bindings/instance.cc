#include "hora/bindings/instance.h"

#include <pthread.h>

#include <atomic>
#include <utility>

#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

// Never destroyed: at the exit of a forked child there is no thread left that a destructor could
// join.
std::shared_ptr<Engine>& Slot() {
  static auto* slot = new std::shared_ptr<Engine>();
  return *slot;
}

std::atomic<bool> forked{false};

void InChildOfFork() {
  if (Slot() == nullptr) return;
  forked.store(true);
  Slot()->CloseInForkedChild();
}

}  // namespace

bool HasEngine() { return Slot() != nullptr && !forked.load(); }

const std::shared_ptr<Engine>& CurrentEngine() {
  if (HasEngine()) return Slot();
  Raise(Status(StatusCode::kNotInitialized,
               forked.load()
                   ? "this process was forked after hvd.init(); only the parent may use hora "
                     "(start worker processes that need it with the spawn method)"
                   : "hora has not been initialised; call hvd.init() first"));
}

void InstallEngine(std::shared_ptr<Engine> engine) {
  [[maybe_unused]] static const int registered = pthread_atfork(nullptr, nullptr, InChildOfFork);
  Slot() = std::move(engine);
}

std::shared_ptr<Engine> RemoveEngine() {
  if (forked.load()) return nullptr;  // the parent's, with threads that do not exist here
  return std::exchange(Slot(), nullptr);
}

}  // namespace hora::bindings

// The one engine of this process, and what happens to it when the process forks.
#pragma once

#include <memory>

#include "hora/engine/engine.h"

namespace hora::bindings {

// All with the GIL held.
bool HasEngine();
// Raises NotInitializedError. Copy it before the GIL is released.
const std::shared_ptr<Engine>& CurrentEngine();
void InstallEngine(std::shared_ptr<Engine> engine);
std::shared_ptr<Engine> RemoveEngine();  // null when there is none, or after a fork

}  // namespace hora::bindings

#include "live_bytes.h"

#include <malloc.h>

#include <cstdlib>
#include <new>

namespace hora {
namespace {

std::size_t live_bytes = 0;  // the benchmark has one thread

}  // namespace

std::size_t LiveBytes() { return live_bytes; }

}  // namespace hora

void* operator new(std::size_t size) {
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  hora::live_bytes += malloc_usable_size(memory);
  return memory;
}

void operator delete(void* memory) noexcept {
  if (memory == nullptr) return;
  hora::live_bytes -= malloc_usable_size(memory);
  std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }

#include "control/allocation_count.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace hora {
namespace {
std::atomic<std::uint64_t> allocations{0};
}  // namespace

std::uint64_t AllocationCount() { return allocations.load(); }

}  // namespace hora

void* operator new(std::size_t bytes) {
  hora::allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* const memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
// Both or neither: what one gives, the other's delete takes back.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  hora::allocations.fetch_add(1, std::memory_order_relaxed);
  return std::malloc(bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

#include "hora/net/job_key.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace hora {
namespace {

constexpr KeyBytes kNoSecret{};

// What the kernel gives is a whole page, of which nothing else is a part.
KeyBytes* OpenPage() {
  void* const page =
      mmap(nullptr, sizeof(KeyBytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw std::bad_alloc();
  madvise(page, sizeof(KeyBytes), MADV_DONTDUMP);
  return new (page) KeyBytes;
}

void ClosePage(KeyBytes* page) {
  explicit_bzero(page, sizeof(KeyBytes));
  munmap(page, sizeof(KeyBytes));
}

}  // namespace

JobKey::JobKey(std::span<const std::byte, 32> secret) {
  const std::shared_ptr<KeyBytes> page(OpenPage(), &ClosePage);
  std::copy(secret.begin(), secret.end(), page->begin());
  page_ = page;
}

std::span<const std::byte, 32> JobKey::bytes() const { return page_ ? *page_ : kNoSecret; }

}  // namespace hora

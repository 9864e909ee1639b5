#include "hora/net/job_key.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

namespace hora {
namespace {

KeyBytes SampleKey() {
  KeyBytes key;
  key.fill(std::byte{0x5a});
  return key;
}

// The kernel's two-letter words for the mapping that holds this address; "" when there is none.
std::string FlagsOfMapping(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      inside = begin <= wanted && wanted < end;
    }
    if (inside && line.starts_with("VmFlags:")) return line + " ";
  }
  return "";
}

bool IsMapped(const void* address) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  unsigned char resident = 0;
  void* const begin =
      reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(address) / page * page);
  return mincore(begin, 1, &resident) == 0 || errno != ENOMEM;
}

TEST(JobKey, IsNotInCoreDumps) {
  const JobKey key(SampleKey());
  EXPECT_NE(FlagsOfMapping(key.bytes().data()).find(" dd "), std::string::npos)
      << FlagsOfMapping(key.bytes().data());
  const KeyBytes elsewhere = SampleKey();
  EXPECT_EQ(FlagsOfMapping(elsewhere.data()).find(" dd "), std::string::npos)
      << "a page like others, which this test must be able to tell";
}

TEST(JobKey, CopiesShareItUntilTheLastIsGone) {
  JobKey first(SampleKey());
  const auto* const place = first.bytes().data();
  {
    const JobKey second = first;
    first = JobKey();
    EXPECT_EQ(second.bytes().data(), place);
    EXPECT_TRUE(std::ranges::equal(second.bytes(), SampleKey()));
  }
  EXPECT_FALSE(IsMapped(place));
  EXPECT_TRUE(std::ranges::equal(first.bytes(), KeyBytes{}));
}

}  // namespace
}  // namespace hora

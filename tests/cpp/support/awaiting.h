// What tests of things that fail share: waiting for what others do, and reading what is said.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <initializer_list>
#include <string>
#include <thread>

#include "hora/base/clock.h"
#include "hora/base/status.h"

namespace hora {

inline TimePoint InTheEnd() { return SteadyClock::Instance().Now() + std::chrono::seconds(60); }

// Until `ready`, which somebody else makes so.
template <class Ready>
bool Comes(const Ready& ready) {
  const TimePoint deadline = InTheEnd();
  while (!ready()) {
    if (SteadyClock::Instance().Now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

inline void ExpectSays(const Status& status, StatusCode code,
                       std::initializer_list<const char*> parts) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  for (const char* part : parts) {
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
}

}  // namespace hora

// Where the ranks of a test meet that are threads of one process.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "hora/base/format.h"
#include "hora/net/store.h"

namespace hora {

// A Store in this process's memory. Any thread.
class MemoryStore final : public Store {
 public:
  Result<Meeting> Meet(int rank, int size, const std::string& tells, TimePoint deadline) override {
    std::unique_lock lock(mutex_);
    if (told_.empty()) {
      size_ = size;
      disagreed_ = false;
    }
    const std::uint64_t round = round_;
    if (size != size_ || !told_.emplace(rank, tells).second) {
      disagreed_ = true;
      told_.clear();
      ++round_;
      changed_.notify_all();
    } else if (told_.size() == static_cast<std::size_t>(size)) {
      last_.generation += 1;
      last_.told.clear();
      for (auto& [of, text] : told_) last_.told.push_back(std::move(text));
      told_.clear();
      ++round_;
      changed_.notify_all();
    }
    if (!changed_.wait_until(lock, deadline, [&] { return round_ != round; })) {
      told_.erase(rank);
      return Fail(Error(StatusCode::kTimeout, "only {} of {} ranks came", told_.size() + 1, size));
    }
    if (disagreed_) {
      return Fail(Error(StatusCode::kMismatch, "rank {} came twice, or sizes differ", rank));
    }
    return last_;
  }

  Status Set(const std::string& key, const std::string& value) override {
    const std::lock_guard lock(mutex_);
    values_[key] = value;
    changed_.notify_all();
    return Status::Ok();
  }

  Result<std::string> Get(const std::string& key, TimePoint deadline) override {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, deadline, [&] { return values_.contains(key); })) {
      return Fail(Error(StatusCode::kTimeout, "nobody set '{}'", key));
    }
    return values_[key];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> values_;
  std::map<int, std::string> told_;  // of the meeting that is not complete
  int size_ = 0;
  std::uint64_t round_ = 0;  // of meetings that ended
  bool disagreed_ = false;   // the last of them
  Meeting last_;
};

}  // namespace hora

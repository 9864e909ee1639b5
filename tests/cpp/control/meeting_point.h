#pragma once

#include <string>
#include <vector>

#include "hora/base/unique_fd.h"
#include "hora/control/host_group.h"

namespace hora {

// A rendezvous as a launcher prepares it: a bound name, its listening socket and the key of a job.
class MeetingPoint {
 public:
  explicit MeetingPoint(int size, Duration timeout = std::chrono::seconds(20));

  HostGroupOptions OptionsOf(int rank) const;
  int size() const { return size_; }
  void Close() { listener_ = UniqueFd(); }
  void Listen();
  // A connection that has said nothing yet.
  UniqueFd Connect() const;

 private:
  int size_;
  Duration timeout_;
  std::string name_;
  JobKey key_;
  UniqueFd listener_;
};

// FormHostGroup of several ranks, each on a thread of its own; results in the order of `options`.
std::vector<Result<HostGroup>> FormTogether(const std::vector<HostGroupOptions>& options);
std::vector<Result<HostGroup>> FormTogether(const MeetingPoint& point);

void ClosePeers(const HostGroup& group);

}  // namespace hora

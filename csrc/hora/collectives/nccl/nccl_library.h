// Finding libnccl.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hora/base/result.h"
#include "hora/collectives/nccl/nccl_api.h"

namespace hora {

std::string NcclVersionText(int version);  // "2.28.9" of 22809

// An open library; never closed: threads of its own may be running in it. Immutable.
class NcclLibrary {
 public:
  // `loaded` where this process has it already (PyTorch's), else the first of `candidates` that
  // opens. kResource names all that was tried and how to install it; kInvalidArgument a version
  // older than 2.18.
  static Result<std::shared_ptr<const NcclLibrary>> Open(
      const std::vector<std::string>& candidates, const std::string& loaded = "libnccl.so.2");

  const nccl::Api& api() const { return api_; }
  int version() const { return version_; }  // 22809 is 2.28.9
  std::string description() const;          // "NCCL 2.28.9 (/…/libnccl.so.2)"

 private:
  NcclLibrary() = default;
  nccl::Api api_;
  int version_ = 0;
  std::string path_;
};

}  // namespace hora

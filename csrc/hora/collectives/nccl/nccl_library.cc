#include "hora/collectives/nccl/nccl_library.h"

#include <dlfcn.h>

#include "hora/base/format.h"

namespace hora {
namespace {

constexpr int kOldest = 21800;  // ncclConfig_t as it is used here, and ncclCommSplit

// Whether the symbol is there.
template <class Function>
bool Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// The first symbol that is missing, or null.
const char* FindAll(void* library, nccl::Api& api) {
  const char* missing = nullptr;
  const auto need = [&](const char* name, auto& function) {
    if (!Find(library, name, function) && missing == nullptr) missing = name;
  };
  need("ncclGetVersion", api.get_version);
  need("ncclGetUniqueId", api.get_unique_id);
  need("ncclCommInitRankConfig", api.init_rank_config);
  need("ncclCommFinalize", api.finalize);
  need("ncclCommDestroy", api.destroy);
  need("ncclCommAbort", api.abort);
  need("ncclCommGetAsyncError", api.get_async_error);
  need("ncclGetErrorString", api.get_error_string);
  need("ncclGetLastError", api.get_last_error);
  need("ncclGroupStart", api.group_start);
  need("ncclGroupEnd", api.group_end);
  need("ncclAllReduce", api.all_reduce);
  need("ncclReduce", api.reduce);
  need("ncclReduceScatter", api.reduce_scatter);
  need("ncclAllGather", api.all_gather);
  need("ncclBroadcast", api.broadcast);
  need("ncclSend", api.send);
  need("ncclRecv", api.recv);
  need("ncclCommSplit", api.split);
  Find(library, "ncclCommShrink", api.shrink);
  Find(library, "ncclMemAlloc", api.mem_alloc);
  Find(library, "ncclMemFree", api.mem_free);
  Find(library, "ncclCommRegister", api.register_buffer);
  Find(library, "ncclCommDeregister", api.deregister_buffer);
  return missing;
}

std::string PathOf(const void* symbol, const std::string& otherwise) {
  Dl_info info{};
  return dladdr(symbol, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : otherwise;
}

}  // namespace

Result<std::shared_ptr<const NcclLibrary>> NcclLibrary::Open(
    const std::vector<std::string>& candidates, const std::string& loaded) {
  std::string name = loaded;
  std::string tried;
  void* opened = dlopen(loaded.c_str(), RTLD_NOW | RTLD_NOLOAD);
  for (auto next = candidates.begin(); opened == nullptr && next != candidates.end(); ++next) {
    name = *next;
    opened = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) tried += fmt::format("; {}", dlerror());
  }
  if (opened == nullptr) {
    return Fail(
        Error(StatusCode::kResource,
              "NCCL is not there: this process has not loaded {}{}. PyTorch for CUDA brings "
              "it; otherwise `pip install nvidia-nccl-cu13` (or -cu12, as your CUDA is)",
              loaded, tried));
  }
  const std::shared_ptr<NcclLibrary> library(new NcclLibrary);
  const char* const missing = FindAll(opened, library->api_);
  const nccl::Api& api = library->api_;
  if (api.get_version == nullptr || api.get_version(&library->version_) != nccl::Result::kSuccess) {
    return Fail(Error(StatusCode::kResource, "{} does not tell its version: is it NCCL?", name));
  }
  library->path_ = PathOf(reinterpret_cast<const void*>(api.get_version), name);
  if (library->version_ < kOldest) {
    return Fail(Error(StatusCode::kInvalidArgument,
                      "{} is too old: hora needs {} or later, which PyTorch has from 2.2 on",
                      library->description(), NcclVersionText(kOldest)));
  }
  if (missing != nullptr) {
    return Fail(Error(StatusCode::kResource, "{} lacks {}", library->description(), missing));
  }
  return library;
}

std::string NcclVersionText(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

std::string NcclLibrary::description() const {
  return fmt::format("NCCL {} ({})", NcclVersionText(version_), path_);
}

}  // namespace hora

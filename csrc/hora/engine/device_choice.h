// Which backend moves the GPU tensors of a process set: decided from what every rank has.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/result.h"
#include "hora/tensor/host_layout.h"
#include "hora/tensor/rank_names.h"

namespace hora {

// What a rank tells the others of its set about its GPU.
struct DeviceCard {
  std::string wanted;    // HORA_GPU_BACKEND: auto, nccl or staged
  std::string uuid;      // of the GPU, or its MIG slice
  int nccl_version = 0;  // 0: none
  std::string no_nccl;   // why there is none
  std::string problem;   // why this rank cannot work on a GPU at all; else empty

  // Of at most kBytes; a problem that is longer is cut.
  static constexpr std::size_t kBytes = 1024;
  std::string ToText() const;
  static Result<DeviceCard> FromText(std::string_view text);
};

enum class DeviceEngine {
  kNccl,
  kLayers,  // NCCL inside each host, staged between them
  kStaged
};

struct DeviceChoice {
  DeviceEngine engine = DeviceEngine::kStaged;
  std::string why;  // "ranks 0 and 1 share a GPU"; empty where nothing else was to be expected
};

// A function of the cards, by rank of the set, so all ranks decide the same. kResource: some rank
// has no GPU, or NCCL was asked for and cannot be; kMismatch: the ranks ask for different backends.
// Both name the ranks and say what to do. By itself it takes NCCL where every rank has a GPU of its
// own and the same version of NCCL, but only inside hosts: across them NCCL would neither
// authenticate nor encrypt, so there it must be asked for. `flat`: nothing is to go in layers.
Result<DeviceChoice> ChooseDeviceEngine(std::span<const DeviceCard> cards, const RankNames& names,
                                        const HostLayout& layout, bool flat);

}  // namespace hora

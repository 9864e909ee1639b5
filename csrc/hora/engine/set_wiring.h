// How the stages of one rank of a process set are connected to those of its other ranks.
#pragma once

#include <memory>

#include "hora/base/wait.h"
#include "hora/collectives/collective_backend.h"
#include "hora/collectives/interruption.h"
#include "hora/engine/control_plane.h"
#include "hora/engine/device_lane.h"
#include "hora/engine/executor.h"
#include "hora/engine/process_set_options.h"
#include "hora/negotiation/negotiator.h"
#include "hora/shm/board.h"

namespace hora {

// The links to this rank's neighbours in the control tree. Takes those of options.network.
ControlPlane Connect(const ProcessSetOptions& options);

NegotiatorOptions ForNegotiator(const ProcessSetOptions& options);
ExecutorOptions ForExecutor(const ProcessSetOptions& options, Lane lane);

// All ranks of the set on one lane. Takes the lane of options.network.
std::unique_ptr<CollectiveBackend> MakeBackend(const ProcessSetOptions& options, Lane lane,
                                               const WaitPolicy& wait,
                                               Interruption interruption = {});

// The same lane's operations on this rank's GPU; `host` is what MakeBackend has made.
std::unique_ptr<DeviceLane> MakeDeviceLane(const ProcessSetOptions& options, Lane lane,
                                           CollectiveBackend& host, Interruption interruption = {});

}  // namespace hora

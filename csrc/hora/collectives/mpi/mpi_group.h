// A communicator of MPI.
#pragma once

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "hora/collectives/mpi/mpi_process.h"
#include "hora/collectives/plugin/plugin_abi.h"
#include "hora/collectives/plugin/plugin_table.h"

namespace hora::mpi_plugin {

// Owns the communicator. All functions throw what MPI says, also when they took longer than the
// group's timeout; then the group is lost, and MPI may still write to the memory of the failed call
// until the process ends. One thread at a time, except Abort.
class MpiGroup {
 public:
  static plugin::Description Describe();
  // Whether MPI itself reduces such elements: sums and products of 32 and 64 bits, minima and
  // maxima of such integers that have a sign. Minima and maxima of floats would lose NaNs on some
  // ranks. Narrow integers and minima of those without a sign go wrong in common versions: Open MPI
  // 4.1 adds 8 and 16 bits with saturation, and it and MPICH 4.0 compare as if there were a sign.
  static bool Reduces(hora_plugin_element element) noexcept;

  // Blocks until all ranks of the group have come.
  explicit MpiGroup(const hora_plugin_group& group);
  ~MpiGroup();
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;

  void Abort() noexcept { aborted_ = true; }  // any thread

  void Allreduce(void* buffer, std::uint64_t count, hora_plugin_element element);
  void Broadcast(void* buffer, std::uint64_t bytes, int root);
  void Allgather(const void* input, void* output, const std::uint64_t* bytes_by_rank);
  void Alltoall(const void* input, const std::uint64_t* bytes_to, void* output,
                const std::uint64_t* bytes_from);

 private:
  using Begin = std::function<void(std::vector<MPI_Request>& requests)>;

  void CreateCommunicator(const hora_plugin_group& group);
  // Begins on a thread that may call MPI, then tests until all requests are complete.
  void Complete(const Begin& begin);
  void Transfer(std::byte* data, std::uint64_t bytes, int peer, bool receives,
                std::vector<MPI_Request>& requests);

  const std::chrono::milliseconds timeout_;
  const int rank_;
  const int size_;
  MpiProcess& process_;
  MPI_Comm communicator_ = MPI_COMM_NULL;
  std::atomic<bool> aborted_{false};
  bool failed_ = false;
};

}  // namespace hora::mpi_plugin

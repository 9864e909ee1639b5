// Worker over any MPI: Open MPI, MPICH, Intel MPI. Compiled against each one's own mpi.h.
#include <mpi.h>

#include "worker.h"

namespace peers {
namespace {

class Mpi final : public Library {
 public:
  Mpi() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void Barrier() override { MPI_Barrier(MPI_COMM_WORLD); }

  void Prepare(Case& what) override {
    if (what.type != Type::kFloat32) throw Unsupported("16-bit floats are no MPI types");
    if (what.mode != "default") throw Unsupported("mode " + what.mode);
    case_ = what;
    part_ = static_cast<int>(what.count) / size_;
  }

  void Run() override {
    const int count = static_cast<int>(case_.count);
    int result = MPI_SUCCESS;
    switch (case_.op) {
      case Op::kAllreduce:
        result = MPI_Allreduce(MPI_IN_PLACE, case_.output, count, MPI_FLOAT, MPI_SUM, World());
        break;
      case Op::kBroadcast:
        result = MPI_Bcast(case_.output, count, MPI_FLOAT, 0, World());
        break;
      case Op::kAllgather:
        result =
            MPI_Allgather(case_.input, part_, MPI_FLOAT, case_.output, part_, MPI_FLOAT, World());
        break;
      case Op::kReducescatter:
        result =
            MPI_Reduce_scatter_block(case_.input, case_.output, part_, MPI_FLOAT, MPI_SUM, World());
        break;
      case Op::kAlltoall:
        result =
            MPI_Alltoall(case_.input, part_, MPI_FLOAT, case_.output, part_, MPI_FLOAT, World());
        break;
    }
    if (result != MPI_SUCCESS) throw std::runtime_error("MPI error " + std::to_string(result));
  }

 private:
  static MPI_Comm World() { return MPI_COMM_WORLD; }

  int rank_ = 0;
  int size_ = 1;
  Case case_;
  int part_ = 0;
};

}  // namespace
}  // namespace peers

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  MPI_Init(&argc, &argv);
  peers::Mpi library;
  const int status = peers::Serve(library, argv[1]);
  MPI_Finalize();
  return status;
}

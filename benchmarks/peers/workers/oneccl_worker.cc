// Worker over oneCCL's CPU interface. The address of the key-value store goes through a file.
#include <oneapi/ccl.hpp>

#include <chrono>
#include <fstream>
#include <thread>

#include "worker.h"

namespace peers {
namespace {

using Address = ccl::kvs::address_type;

ccl::shared_ptr_class<ccl::kvs> Meet(const std::string& folder, int rank) {
  const std::string path = folder + "/kvs";
  if (rank == 0) {
    auto store = ccl::create_main_kvs();
    const Address address = store->get_address();
    std::ofstream(path + ".new", std::ios::binary).write(address.data(), address.size());
    std::rename((path + ".new").c_str(), path.c_str());
    return store;
  }
  Address address;
  for (int tries = 0; tries < 3000; ++tries) {
    std::ifstream file(path, std::ios::binary);
    if (file.read(address.data(), address.size())) return ccl::create_kvs(address);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  throw std::runtime_error("rank 0 wrote no address");
}

class OneCcl final : public Library {
 public:
  OneCcl(int rank, int size, const std::string& folder)
      : rank_(rank), size_(size), comm_(ccl::create_communicator(size, rank, Meet(folder, rank))) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void Barrier() override { ccl::barrier(comm_).wait(); }

  void Prepare(Case& what) override {
    if (what.mode != "default") throw Unsupported("mode " + what.mode);
    case_ = what;
    part_ = what.count / static_cast<std::size_t>(size_);
    parts_.assign(static_cast<std::size_t>(size_), part_);
    type_ = what.type == Type::kFloat32   ? ccl::datatype::float32
            : what.type == Type::kFloat16 ? ccl::datatype::float16
                                          : ccl::datatype::bfloat16;
  }

  void Run() override {
    void* const in = case_.input;
    void* const out = case_.output;
    switch (case_.op) {
      case Op::kAllreduce:
        ccl::allreduce(out, out, case_.count, type_, ccl::reduction::sum, comm_).wait();
        break;
      case Op::kBroadcast:
        ccl::broadcast(out, case_.count, type_, 0, comm_).wait();
        break;
      case Op::kAllgather:
        ccl::allgatherv(in, part_, out, parts_, type_, comm_).wait();
        break;
      case Op::kReducescatter:
        ccl::reduce_scatter(in, out, part_, type_, ccl::reduction::sum, comm_).wait();
        break;
      case Op::kAlltoall:
        ccl::alltoall(in, out, part_, type_, comm_).wait();
        break;
    }
  }

 private:
  int rank_;
  int size_;
  ccl::communicator comm_;
  Case case_;
  std::size_t part_ = 0;
  ccl::vector_class<std::size_t> parts_;
  ccl::datatype type_ = ccl::datatype::float32;
};

// Hydra tells each process its place.
int FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) throw std::runtime_error(std::string(name) + " is not set");
  return std::atoi(value);
}

}  // namespace
}  // namespace peers

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  ccl::init();
  peers::OneCcl library(peers::FromEnvironment("PMI_RANK"), peers::FromEnvironment("PMI_SIZE"),
                        argv[1]);
  return peers::Serve(library, argv[1]);
}

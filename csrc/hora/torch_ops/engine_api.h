// What the engine of this process offers to hora/_torch_ops.so, as plain C: the two libraries are
// built apart, one of them without LibTorch and the other without Python.
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {

// Counts changes of anything below. Both libraries come from one build; this notices when not.
#define HORA_ENGINE_API_VERSION 3

// Dense and row-major; dtype as in hora/tensor/dtype.h.
struct HoraTensor {
  void* data;
  int32_t dtype;
  int32_t gpu;  // its index; -1: on the CPU
  int32_t ndim;
  const int64_t* dims;
};

// One blocking operation; of a GPU's tensors, in the order of the current stream. All memory is the
// caller's, and need only last for the call, but for that of the tensors: see HoraResult::in_use.
struct HoraCall {
  const char* name;
  int32_t kind;       // hora/tensor/op_kind.h
  int32_t reduce_op;  // hora/tensor/reduce_op.h
  int32_t root_rank;  // of the whole job
  int32_t process_set;
  double prescale;
  double postscale;
  const HoraTensor* inputs;
  const HoraTensor* outputs;  // as many; null for allgather and alltoall
  size_t tensor_count;
  const int64_t* splits;  // alltoall: one for each rank of the set
  size_t split_count;
};

// What an operation leaves behind. Release it, whatever it holds.
struct HoraResult {
  void* owner;
  const char* error;    // null when it went well
  bool in_use;          // a signal ended the wait, or the group is lost: `keep` the tensors
  size_t bytes;         // allgather, alltoall: of the first tensor's result; see `fetch`
  const int64_t* rows;  // allgather, alltoall: from each rank of the set
  size_t row_count;
};

// Any thread, with Python's lock or without; it is given up while the operation runs.
struct HoraEngineApi {
  uint32_t version;
  // This rank's place in a process set and the size of the set; false when it is in none such.
  bool (*place)(int32_t process_set, int32_t* rank, int32_t* size);
  void (*run)(const HoraCall* call, HoraResult* result);
  // Calls drop(tensors) when neither the engine nor a device uses the operation's tensors any more.
  void (*keep)(HoraResult* result, void* tensors, void (*drop)(void* tensors));
  // Copies those bytes, in rank order, to memory of the device that the tensor is on. False: not;
  // `error` says why.
  bool (*fetch)(HoraResult* result, void* to);
  void (*release)(HoraResult* result);
};

}  // extern "C"

/* What hora_cuda.so offers: CUDA's runtime and hora's kernels behind a C interface, so that the
   core links nothing of CUDA and one wheel serves machines with and without it. Exports
   `hora_cuda_get`. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HORA_CUDA_ABI 2u

typedef struct hora_cuda_error {
  char text[512]; /* always terminated after a failed call */
  int32_t lost;   /* the device cannot be used by this process any more */
} hora_cuda_error;

typedef struct hora_cuda_facts {
  char name[256];
  char uuid[64];
  int32_t compute_major, compute_minor;
  uint64_t memory_bytes;
} hora_cuda_facts;

typedef struct hora_cuda_piece {
  const void* from;
  void* to;
  uint64_t elements;
} hora_cuda_piece;

/* ElementCopy of device_runtime.h; dtypes are hora's DType. */
typedef struct hora_cuda_element {
  uint8_t from, to;
  int32_t divisor;
  double scale;
} hora_cuda_element;

/* Blocks of `block` elements, each with a scale of its own: see kernels/quantise.h. */
typedef struct hora_cuda_blocks {
  uint8_t dtype; /* of the tensor: float32, float16, bfloat16 */
  uint8_t bits;  /* 8 or 4 */
  uint32_t block;
} hora_cuda_blocks;

/* All functions return 0, or not 0 with a text. Streams and events are CUDA's own. */
typedef struct hora_cuda {
  uint32_t abi;
  int (*describe)(char* text, size_t bytes, int32_t* devices, hora_cuda_error*);
  int (*facts)(int32_t device, hora_cuda_facts*, hora_cuda_error*);
  int (*make_current)(int32_t device, hora_cuda_error*);
  int (*current)(int32_t* device, hora_cuda_error*); /* -1: the thread has none */

  int (*create_stream)(int32_t device, int32_t urgent, void** stream, hora_cuda_error*);
  void (*destroy_stream)(void* stream);
  int (*create_event)(int32_t device, void** event, hora_cuda_error*);
  void (*destroy_event)(void* event);
  int (*record)(void* event, void* stream, hora_cuda_error*);
  int (*wait)(void* stream, void* event, hora_cuda_error*);
  int (*is_capturing)(void* stream, int32_t* capturing, hora_cuda_error*); /* into a graph */
  /* Of the calling thread, cudaStreamCaptureMode; `mode` is the one before afterwards. */
  void (*exchange_capture_mode)(int32_t* mode);
  int (*is_done)(void* event, int32_t* done, hora_cuda_error*);

  int (*allocate_device)(int32_t device, size_t bytes, void** memory, hora_cuda_error*);
  void (*free_device)(void* memory);
  int (*allocate_pinned)(size_t bytes, void** memory, hora_cuda_error*);
  void (*free_pinned)(void* memory);

  int (*copy)(void* to, const void* from, size_t bytes, void* stream, hora_cuda_error*);
  int (*copy_many)(const hora_cuda_piece*, size_t pieces, const hora_cuda_element*, void* stream,
                   hora_cuda_error*);
  int (*fill)(void* to, const void* element, size_t element_bytes, uint64_t count, void* stream,
              hora_cuda_error*);
  int (*quantise)(const void* from, void* to, uint64_t elements, const hora_cuda_blocks*,
                  void* stream, hora_cuda_error*);
  int (*dequantise)(const void* from, void* to, uint64_t elements, const hora_cuda_blocks*,
                    void* stream, hora_cuda_error*);
} hora_cuda;

const hora_cuda* hora_cuda_get(void);

#ifdef __cplusplus
}
#endif

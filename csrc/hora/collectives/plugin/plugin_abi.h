/* What a collective library offers through a plugin: a C interface, so that a plugin may be built
   by another compiler and links nothing but its library. A plugin exports `hora_plugin_get`. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HORA_PLUGIN_ABI 1u

/* The values are hora's DType and ReduceOp (tensor/dtype.h, tensor/reduce_op.h). */
typedef struct hora_plugin_element {
  uint8_t dtype;
  uint8_t reduce_op; /* sum, min, max, product */
} hora_plugin_element;

/* A text that a failed call leaves; always terminated. */
typedef struct hora_plugin_error {
  char text[512];
} hora_plugin_error;

/* How the ranks of a group find each other. `set` and `get` block, return 0 or fill the error, and
   may be called until `create` returns. `get` writes at most `*bytes` and stores how many. */
typedef struct hora_plugin_group {
  int32_t rank;
  int32_t size;
  const int32_t* global_ranks;  /* by rank */
  const char* name;             /* of this group, equal on its ranks, unique in the job */
  const char* bind_address;     /* of the chosen interface, without a port */
  const char* secret_directory; /* 0700, for what the library wants in files; "" when unused */
  int64_t timeout_ms;
  void* store;
  int (*set)(void* store, const char* key, const void* value, size_t bytes, hora_plugin_error*);
  int (*get)(void* store, const char* key, void* value, size_t* bytes, hora_plugin_error*);
} hora_plugin_group;

/* All functions return 0, or not 0 with a text. Bytes and counts are 64-bit; a plugin cuts what its
   library cannot do at once. One thread at a time per group; `abort` from any thread, after which
   every call of the group fails soon. */
typedef struct hora_plugin {
  uint32_t abi;     /* HORA_PLUGIN_ABI */
  const char* name; /* "gloo", "mpi" */

  /* The library's version and whether it can be used by this process now, in words. */
  int (*describe)(char* text, size_t bytes, hora_plugin_error*);
  int (*create)(const hora_plugin_group*, void** group, hora_plugin_error*);
  void (*destroy)(void* group);
  void (*abort)(void* group);

  /* Whether the library reduces such elements by itself. */
  int (*reduces)(hora_plugin_element);
  int (*allreduce)(void* group, void* buffer, uint64_t count, hora_plugin_element,
                   hora_plugin_error*);
  int (*broadcast)(void* group, void* buffer, uint64_t bytes, int32_t root, hora_plugin_error*);
  int (*allgather)(void* group, const void* input, void* output, const uint64_t* bytes_by_rank,
                   hora_plugin_error*);
  int (*alltoall)(void* group, const void* input, const uint64_t* bytes_to, void* output,
                  const uint64_t* bytes_from, hora_plugin_error*);
} hora_plugin;

const hora_plugin* hora_plugin_get(void);

#ifdef __cplusplus
}
#endif

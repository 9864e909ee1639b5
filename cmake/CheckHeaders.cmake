# Target `checkheaders`: every header of csrc/hora compiled alone, so that none of them leans on
# what its includer happened to include first.
include_guard(GLOBAL)

file(GLOB_RECURSE hora_headers CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}/csrc"
     "${PROJECT_SOURCE_DIR}/csrc/hora/*.h")
# Python's and PyTorch's headers are not there in a C++-only build.
list(FILTER hora_headers EXCLUDE REGEX "^hora/(bindings/|torch_ops/engine_call)")
# Nor, perhaps, those of the libraries that plugins bring.
list(FILTER hora_headers EXCLUDE REGEX "^hora/collectives/(gloo|mpi|nccl)/")

foreach(header IN LISTS hora_headers)
  set(source "${PROJECT_BINARY_DIR}/checkheaders/${header}.cc")
  file(CONFIGURE OUTPUT "${source}" CONTENT "#include \"@header@\"\n" @ONLY)
  list(APPEND hora_header_sources "${source}")
endforeach()

if(hora_header_sources)
  get_property(libraries GLOBAL PROPERTY HORA_LIBRARIES)
  add_library(checkheaders OBJECT EXCLUDE_FROM_ALL ${hora_header_sources})
  target_compile_options(checkheaders PRIVATE -O0 -g0 -U_FORTIFY_SOURCE)
  target_link_libraries(checkheaders PRIVATE hora_options ${libraries})
else()
  add_custom_target(checkheaders)
endif()

# The workers of benchmarks/peers that need hora, or nothing; those of other libraries are compiled
# by benchmarks/peers/installation.py against what it installs.
include_guard(GLOBAL)

foreach(name IN ITEMS hora_worker memory_worker)
  add_executable(${name} "${PROJECT_SOURCE_DIR}/benchmarks/peers/workers/${name}.cc")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/peers")
endforeach()
target_link_libraries(hora_worker PRIVATE hora_collectives)

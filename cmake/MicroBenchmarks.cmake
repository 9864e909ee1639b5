# Every benchmarks/micro/<name>.cc becomes one google-benchmark executable <name>.
include_guard(GLOBAL)

get_property(hora_libraries GLOBAL PROPERTY HORA_LIBRARIES)
file(GLOB hora_benchmarks CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/benchmarks/micro/*.cc")
foreach(source IN LISTS hora_benchmarks)
  cmake_path(GET source STEM name)
  add_executable(${name} "${source}")
  target_link_libraries(${name} PRIVATE ${hora_libraries} benchmark::benchmark)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/benchmarks")
endforeach()

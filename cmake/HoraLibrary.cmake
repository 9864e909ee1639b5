# hora_library(<folder> [DEPENDS <folder>...]): one static library per folder of csrc/hora.
#
# - every .cc below the folder belongs to it (new files are noticed by the next build);
# - a folder without sources becomes an interface library, a folder that is not there is skipped;
# - DEPENDS names folders; tools/check_layers.py holds the same table for #include lines.
include_guard(GLOBAL)

function(hora_library folder)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "DEPENDS")
  if(NOT IS_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}/${folder}")
    return()
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cc")
  list(FILTER sources EXCLUDE REGEX "_bench\\.cc$")
  list(FILTER sources EXCLUDE REGEX "/collectives/(gloo|mpi)/|/cuda/plugin/") # plugins: see Plugins.cmake
  set(target hora_${folder})
  set(public PUBLIC)
  if(sources)
    hora_simd_variants(sources)
    add_library(${target} STATIC ${sources})
    set_target_properties(${target} PROPERTIES CXX_CLANG_TIDY "${HORA_CLANG_TIDY_COMMAND}")
  else()
    add_library(${target} INTERFACE)
    set(public INTERFACE)
  endif()
  target_link_libraries(${target} ${public} hora_options)
  foreach(dependency IN LISTS arg_DEPENDS)
    if(TARGET hora_${dependency})
      target_link_libraries(${target} ${public} hora_${dependency})
    endif()
  endforeach()
  set_property(GLOBAL APPEND PROPERTY HORA_LIBRARIES ${target})
endfunction()

# Sources named *_avx2.cc, *_avx512.cc, *_neon.cc get their instruction set, or leave the list
# on an architecture that has none of it. Which variant runs is decided at run time.
function(hora_simd_variants list_name)
  set(x86_avx2 -mavx2 -mfma -mf16c)
  set(x86_avx512 ${x86_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq)
  foreach(source IN LISTS ${list_name})
    if(source MATCHES "_(avx2|avx512)\\.cc$")
      set(flags ${x86_${CMAKE_MATCH_1}})
      set(architecture "x86_64|amd64|AMD64")
    elseif(source MATCHES "_neon\\.cc$")
      set(flags "") # part of the aarch64 baseline
      set(architecture "aarch64|arm64")
    else()
      continue()
    endif()
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(${architecture})$")
      set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "${flags}")
    else()
      list(REMOVE_ITEM ${list_name} "${source}")
    endif()
  endforeach()
  set(${list_name} ${${list_name}} PARENT_SCOPE)
endfunction()

# hora_schema(<folder>): compiles its *.fbs into <build>/generated/hora/<folder>/*_generated.h.
function(hora_schema folder)
  file(GLOB schemas CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.fbs")
  if(NOT schemas)
    return()
  endif()
  set(output "${PROJECT_BINARY_DIR}/generated/hora/${folder}")
  foreach(schema IN LISTS schemas)
    cmake_path(GET schema STEM stem)
    add_custom_command(
      OUTPUT "${output}/${stem}_generated.h"
      COMMAND ${hora_flatc} --cpp --scoped-enums -o "${output}" "${schema}"
      DEPENDS "${schema}" ${hora_flatc}
      COMMENT "Compiling schema hora/${folder}/${stem}.fbs"
      VERBATIM)
    list(APPEND headers "${output}/${stem}_generated.h")
  endforeach()
  add_custom_target(hora_${folder}_schema DEPENDS ${headers})
  get_target_property(type hora_${folder} TYPE)
  set(public PUBLIC)
  if(type STREQUAL "INTERFACE_LIBRARY")
    set(public INTERFACE)
  endif()
  target_include_directories(hora_${folder} SYSTEM ${public} "${PROJECT_BINARY_DIR}/generated")
  target_link_libraries(hora_${folder} ${public} hora::flatbuffers)
  add_dependencies(hora_${folder} hora_${folder}_schema)
endfunction()

# hora_python_module(<name> <folder> DEPENDS <folder>...): the extension module, installed into
# the Python package. Torch is not needed: tensors are read through DLPack.
function(hora_python_module name folder)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "DEPENDS")
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cc")
  if(NOT HORA_BUILD_PYTHON)
    return()
  endif()
  if(NOT sources)
    message(STATUS "hora: csrc/hora/${folder} has no sources yet, hora.${name} is not built")
    return()
  endif()
  set(PYBIND11_FINDPYTHON ON)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
  find_package(pybind11 2.13 CONFIG REQUIRED)
  # NO_EXTRAS: stripping happens at install, and link-time optimisation gains nothing over
  # libraries that were compiled without it.
  pybind11_add_module(${name} MODULE NO_EXTRAS ${sources})
  target_link_libraries(${name} PRIVATE hora_options)
  foreach(dependency IN LISTS arg_DEPENDS)
    if(TARGET hora_${dependency})
      target_link_libraries(${name} PRIVATE hora_${dependency})
    endif()
  endforeach()
  target_link_options(${name} PRIVATE LINKER:--exclude-libs,ALL)
  install(TARGETS ${name} LIBRARY DESTINATION hora COMPONENT python)
endfunction()

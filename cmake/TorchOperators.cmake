# hora_torch_module(<name> <folder> [DEPENDS <folder>...]): PyTorch operators as hora/<name>.so.
#
# PyTorch's headers are looked for in the site-packages of the Python that builds, whether or not
# that Python may import from there (pip isolates builds). Only the stable C interface is used: the
# library asks for HORA_TORCH_TARGET and loads into any later PyTorch.
#
#   HORA_TORCH_OPS        AUTO (build when the headers are found), ON (or fail), OFF
#   HORA_TORCH_DIRECTORY  the folder of PyTorch's package, with include/ and lib/
include_guard(GLOBAL)

set(HORA_TORCH_OPS AUTO CACHE STRING "Build the PyTorch operators: AUTO, ON or OFF")
set(HORA_TORCH_DIRECTORY "" CACHE PATH "Folder of PyTorch's package; empty: look for it")
set_property(CACHE HORA_TORCH_OPS PROPERTY STRINGS AUTO ON OFF)

set(HORA_TORCH_TARGET 0x020a000000000000) # 2.10, the first with strings and lists

# Sets <result> to the package's folder, or to "" and <why> to the reason.
function(hora_find_torch result why)
  set(${result} "" PARENT_SCOPE)
  set(folders "${HORA_TORCH_DIRECTORY}")
  if(NOT folders)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c
              "import site, sys, sysconfig; paths = sysconfig.get_paths(); print(*dict.fromkeys([paths['platlib'], paths['purelib'], *site.getsitepackages(), site.getusersitepackages(), *sys.path]), sep=';')"
      OUTPUT_VARIABLE folders OUTPUT_STRIP_TRAILING_WHITESPACE)
    list(TRANSFORM folders APPEND /torch)
  endif()
  foreach(folder IN LISTS folders)
    if(NOT EXISTS "${folder}/lib/libtorch_cpu.so")
      continue()
    endif()
    file(STRINGS "${folder}/version.py" line REGEX "^__version__ = ")
    string(REGEX REPLACE "[^0-9]*([0-9]+\\.[0-9]+).*" "\\1" version "${line}")
    if(version VERSION_LESS 2.10)
      set(${why} "PyTorch ${version} in ${folder} is older than 2.10" PARENT_SCOPE)
      return()
    endif()
    set(${result} "${folder}" PARENT_SCOPE)
    return()
  endforeach()
  list(JOIN folders " " looked)
  set(${why} "no PyTorch in ${looked}" PARENT_SCOPE)
endfunction()

function(hora_torch_module name folder)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "DEPENDS")
  if(NOT HORA_BUILD_PYTHON OR (NOT HORA_TORCH_OPS AND NOT HORA_TORCH_OPS STREQUAL "AUTO"))
    return()
  endif()
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  hora_find_torch(torch why)
  if(NOT torch)
    if(HORA_TORCH_OPS STREQUAL "AUTO")
      message(STATUS "hora: the PyTorch operators are not built: ${why}")
      return()
    endif()
    message(FATAL_ERROR "HORA_TORCH_OPS is on, but: ${why}; set HORA_TORCH_DIRECTORY")
  endif()
  message(STATUS "hora: PyTorch operators for ${torch}")
  # A folder with torch/ alone: PyTorch's own has copies of other libraries beside it, fmt among them.
  set(include "${PROJECT_BINARY_DIR}/torch_include")
  file(MAKE_DIRECTORY "${include}")
  file(CREATE_LINK "${torch}/include/torch" "${include}/torch" SYMBOLIC)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cc")
  add_library(${name} MODULE ${sources})
  set_target_properties(${name} PROPERTIES PREFIX "" SUFFIX ".so" INTERPROCEDURAL_OPTIMIZATION OFF
                                           SKIP_BUILD_RPATH ON)
  target_compile_definitions(${name} PRIVATE TORCH_TARGET_VERSION=${HORA_TORCH_TARGET})
  target_include_directories(${name} SYSTEM PRIVATE "${include}")
  target_link_libraries(${name} PRIVATE hora_options)
  foreach(dependency IN LISTS arg_DEPENDS)
    target_link_libraries(${name} PRIVATE hora_${dependency})
  endforeach()
  # By its name alone, which is the same in every version, the loader finds the one in the process.
  target_link_libraries(${name} PRIVATE "${torch}/lib/libtorch_cpu.so")
  target_link_options(${name} PRIVATE LINKER:--exclude-libs,ALL LINKER:--allow-shlib-undefined
                                            LINKER:-z,defs)
  install(TARGETS ${name} LIBRARY DESTINATION hora COMPONENT python)
endfunction()

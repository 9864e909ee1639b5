# hora_cuda_plugin(): CUDA behind csrc/hora/cuda/cuda_abi.h, as hora_cuda.so beside the extension
# module. Its runtime is inside, so that it needs a driver and nothing else. Included at file scope:
# a language cannot be enabled in a function.
#
#   HORA_CUDA                AUTO (build where nvcc is found), REQUIRED (or fail), OFF
#   HORA_CUDA_ARCHITECTURES  GPUs that kernels are compiled for
include_guard(GLOBAL)
include(LeftOut)

set(HORA_CUDA AUTO CACHE STRING "Build the CUDA plugin: AUTO (where nvcc is found), REQUIRED, OFF")
set_property(CACHE HORA_CUDA PROPERTY STRINGS AUTO REQUIRED OFF)
# What runs at once on A100, H100 and H200, B200; what others compile at first use.
set(HORA_CUDA_ARCHITECTURES "80-real;90;100" CACHE STRING "GPUs that kernels are compiled for")
set(HORA_CUDA_REFUSED "")
if(NOT HORA_CUDA)
  set(HORA_CUDA_REFUSED "HORA_CUDA is ${HORA_CUDA}")
elseif(NOT HORA_CUDA MATCHES "^(AUTO|REQUIRED|ON)$") # ON: as AUTO
  message(FATAL_ERROR "HORA_CUDA is ${HORA_CUDA}; it can be AUTO, REQUIRED or OFF")
elseif(HORA_SANITIZE)
  set(HORA_CUDA_REFUSED "sanitizers do not know CUDA")
else()
  if(NOT "$ENV{CUDACXX}" STREQUAL "") # a program, and the others are folders
    find_program(HORA_NVCC NAMES "$ENV{CUDACXX}")
  endif()
  find_program(HORA_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH
               PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT HORA_NVCC)
    set(HORA_CUDA_REFUSED "no nvcc (CUDA's toolkit 12.8 or newer; set CUDA_HOME)")
  endif()
endif()

if(NOT HORA_CUDA_REFUSED)
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER "${HORA_NVCC}")
  endif()
  if(NOT CMAKE_CUDA_HOST_COMPILER)
    set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
  endif()
  set(CMAKE_CUDA_ARCHITECTURES 90) # of the probes; see below
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
      set(HORA_CUDA_REFUSED "CUDA ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.8")
    endif()
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 does not know that nvcc knows C++20
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
  else()
    set(HORA_CUDA_REFUSED "${HORA_NVCC} does not work with ${CMAKE_CXX_COMPILER}")
  endif()
endif()

function(hora_cuda_plugin)
  if(HORA_CUDA_REFUSED)
    if(HORA_CUDA STREQUAL "REQUIRED")
      message(FATAL_ERROR "HORA_CUDA is REQUIRED, but: ${HORA_CUDA_REFUSED}")
    endif()
    hora_leave_out("the CUDA plugin is not built: ${HORA_CUDA_REFUSED}")
    return()
  endif()
  list(JOIN HORA_CUDA_ARCHITECTURES " " architectures)
  message(STATUS "hora: CUDA plugin with nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${architectures}")
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cuda/plugin/*.cc"
       "${CMAKE_CURRENT_SOURCE_DIR}/cuda/plugin/*.cu")
  add_library(hora_cuda_plugin MODULE ${sources})
  set_target_properties(
    hora_cuda_plugin
    PROPERTIES OUTPUT_NAME hora_cuda PREFIX "" SUFFIX ".so" INTERPROCEDURAL_OPTIMIZATION OFF
               LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/plugins"
               CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF
               CUDA_VISIBILITY_PRESET hidden
               CUDA_RUNTIME_LIBRARY Static CUDA_COMPILER_LAUNCHER "${CMAKE_CXX_COMPILER_LAUNCHER}"
               CUDA_ARCHITECTURES "${HORA_CUDA_ARCHITECTURES}")
  target_include_directories(hora_cuda_plugin PRIVATE "${PROJECT_SOURCE_DIR}/csrc")
  target_include_directories(hora_cuda_plugin SYSTEM
                             PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  set(werror "$<BOOL:${HORA_WERROR}>")
  target_compile_options(
    hora_cuda_plugin
    PRIVATE
      "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-fstack-protector-strong>"
      "$<$<AND:${werror},$<COMPILE_LANGUAGE:CXX>>:-Werror>"
      # Two roundings where a CPU has two; functions of the core that are constant expressions.
      "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;--expt-relaxed-constexpr;--compress-mode=size>"
      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-unknown-pragmas>"
      "$<$<AND:${werror},$<COMPILE_LANGUAGE:CUDA>>:-Werror=all-warnings>")
  target_link_options(hora_cuda_plugin PRIVATE LINKER:--exclude-libs,ALL LINKER:-z,relro
                      LINKER:-z,now)
  install(TARGETS hora_cuda_plugin LIBRARY DESTINATION hora COMPONENT python)
endfunction()

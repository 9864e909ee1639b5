# Language level, warnings, hardening, sanitizers. Everything of ours links hora_options.
include_guard(GLOBAL)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

if(NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(HORA_CCACHE ccache)
  if(HORA_CCACHE)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${HORA_CCACHE}")
  endif()
endif()

# Sanitizers are global, so that fetched test libraries are instrumented as well.
if(HORA_SANITIZE)
  add_compile_options("-fsanitize=${HORA_SANITIZE}" -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options("-fsanitize=${HORA_SANITIZE}")
endif()

add_library(hora_options INTERFACE)
target_compile_features(hora_options INTERFACE cxx_std_20)
target_include_directories(hora_options INTERFACE "${PROJECT_SOURCE_DIR}/csrc")
target_compile_options(
  hora_options
  INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -fstack-protector-strong
            # A designated initialiser that leaves a field to its default is intended.
            -Wno-missing-field-initializers
            # False alarms of gcc 12 on std::string concatenation (GCC PR 105651).
            $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> $<$<BOOL:${HORA_WERROR}>:-Werror>)
target_link_options(hora_options INTERFACE LINKER:-z,relro LINKER:-z,now)

# _FORTIFY_SOURCE needs optimisation and hides bugs from the sanitizers.
if(NOT HORA_SANITIZE)
  target_compile_options(
    hora_options INTERFACE
    $<$<CONFIG:Release,RelWithDebInfo>:-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=2>)
endif()

# clang 14 and older cannot read the <source_location> of libstdc++.
if(HORA_CLANG_TIDY)
  find_program(HORA_CLANG_TIDY_PROGRAM NAMES clang-tidy clang-tidy-19 clang-tidy-18 clang-tidy-17
                                             clang-tidy-16 clang-tidy-15)
  if(NOT HORA_CLANG_TIDY_PROGRAM)
    message(FATAL_ERROR "HORA_CLANG_TIDY is on, but no clang-tidy 15 or newer is installed; "
                        "`make tidy` installs one into .venv")
  endif()
  # Used by hora_library() only: fetched dependencies are not ours to lint.
  set(HORA_CLANG_TIDY_COMMAND "${HORA_CLANG_TIDY_PROGRAM};--quiet"
                              "--extra-arg=-Wno-unknown-warning-option")
endif()

# Third-party libraries: the system's when it has them, else fetched at an immutable commit.
# Nothing here is linked at run time: fmt, expected and flatbuffers are used as headers only.
#
#   hora::fmt  hora::expected  hora::flatbuffers  hora_flatc   (flatc: executable or target)
#   GTest::gtest_main  benchmark::benchmark                    (tests and benchmarks only)
include_guard(GLOBAL)
include(FetchContent)
find_package(Threads REQUIRED)

# Declares one pinned repository. Header-only ones name a folder that does not exist as their
# build folder, so that their own CMake project (tests, install rules) never joins ours.
function(hora_declare name repository commit)
  FetchContent_Declare(${name} GIT_REPOSITORY "https://github.com/${repository}.git"
                       GIT_TAG ${commit} ${ARGN})
endfunction()

hora_declare(fmt fmtlib/fmt 40626af88bd7df9a5fb80be7b25ac85b122d6c21 # 11.2.0
             SOURCE_SUBDIR headers-only)
hora_declare(expected TartanLlama/expected 292eff8bd8ee230a7df1d6a1c00c4ea0eb2f0362 # 1.1.0
             SOURCE_SUBDIR headers-only)
hora_declare(flatbuffers google/flatbuffers 187240970746d00bbd26b0f5873ed54d2477f9f3) # 25.9.23
hora_declare(googletest google/googletest 52eb8108c5bdec04579160ae17225d66034bd723) # 1.17.0
hora_declare(benchmark google/benchmark eddb0241389718a23a42db6af5f0164b6e0139af) # 1.9.4

# Fetches <name>, unless an earlier run did; without a network it says how to do without.
macro(hora_fetch name)
  hora_check_network(${name})
  message(STATUS "hora: fetching ${name} at its pinned commit")
  FetchContent_MakeAvailable(${name})
endmacro()

function(hora_check_network name)
  string(TOUPPER "FETCHCONTENT_SOURCE_DIR_${name}" given)
  if(${given} OR EXISTS "${CMAKE_BINARY_DIR}/_deps/${name}-src/CMakeLists.txt" OR HORA_HAS_NETWORK)
    return()
  endif()
  find_program(HORA_GIT git)
  set(failed "there is no git")
  if(HORA_GIT)
    execute_process(COMMAND "${HORA_GIT}" ls-remote -q https://github.com/fmtlib/fmt.git HEAD
                    TIMEOUT 30 OUTPUT_QUIET ERROR_QUIET RESULT_VARIABLE failed)
  endif()
  if(failed)
    message(FATAL_ERROR
            "hora needs ${name}, which is not on this machine and cannot be fetched from github.com "
            "(${failed}). Debian and Ubuntu have all that is fetched: apt-get install libfmt-dev "
            "libexpected-dev libflatbuffers-dev flatbuffers-compiler libgtest-dev libbenchmark-dev. "
            "Without root or network: run tools/gather_libraries.sh FOLDER on a machine that has "
            "one, carry FOLDER here, and set CMAKE_PREFIX_PATH=FOLDER/usr")
  endif()
  set(HORA_HAS_NETWORK TRUE PARENT_SCOPE)
endfunction()

# An interface target over headers; SYSTEM keeps our warnings out of their code.
function(hora_header_target name directory)
  string(REPLACE "::" "_" plain "${name}")
  add_library(${plain} INTERFACE)
  add_library(${name} ALIAS ${plain})
  target_include_directories(${plain} SYSTEM INTERFACE "${directory}")
endfunction()

# --- OpenSSL: the system's ------------------------------------------------------------------
find_package(OpenSSL 3 QUIET)
if(NOT OPENSSL_FOUND)
  message(FATAL_ERROR "hora needs OpenSSL 3 with its headers (Debian: libssl-dev; or set "
                      "OPENSSL_ROOT_DIR, or CMAKE_PREFIX_PATH as tools/gather_libraries.sh says)")
endif()

# --- fmt ----------------------------------------------------------------------------------
if(NOT HORA_FORCE_FETCH)
  find_package(fmt 9 CONFIG QUIET)
endif()
if(TARGET fmt::fmt-header-only)
  get_target_property(HORA_FMT_INCLUDE fmt::fmt-header-only INTERFACE_INCLUDE_DIRECTORIES)
else()
  hora_fetch(fmt)
  set(HORA_FMT_INCLUDE "${fmt_SOURCE_DIR}/include")
endif()
hora_header_target(hora::fmt "${HORA_FMT_INCLUDE}")
target_compile_definitions(hora_fmt INTERFACE FMT_HEADER_ONLY=1)

# --- tl::expected -------------------------------------------------------------------------
if(NOT HORA_FORCE_FETCH)
  find_path(HORA_EXPECTED_INCLUDE tl/expected.hpp)
endif()
if(HORA_EXPECTED_INCLUDE)
  hora_header_target(hora::expected "${HORA_EXPECTED_INCLUDE}")
else()
  hora_fetch(expected)
  hora_header_target(hora::expected "${expected_SOURCE_DIR}/include")
endif()

# --- flatbuffers: headers and compiler always from the same place -------------------------
if(NOT HORA_FORCE_FETCH)
  find_path(HORA_FLATBUFFERS_INCLUDE flatbuffers/flatbuffers.h)
  find_program(HORA_FLATC flatc)
endif()
if(HORA_FLATBUFFERS_INCLUDE AND HORA_FLATC)
  hora_header_target(hora::flatbuffers "${HORA_FLATBUFFERS_INCLUDE}")
  set(hora_flatc "${HORA_FLATC}")
else()
  set(FLATBUFFERS_BUILD_TESTS OFF)
  set(FLATBUFFERS_BUILD_FLATLIB OFF)
  set(FLATBUFFERS_BUILD_FLATHASH OFF)
  set(FLATBUFFERS_INSTALL OFF)
  hora_fetch(flatbuffers)
  # flatc runs once, on one small file: what counts is how long it takes to compile.
  target_compile_options(flatc PRIVATE -w -O0 -fno-sanitize=all)
  hora_header_target(hora::flatbuffers "${flatbuffers_SOURCE_DIR}/include")
  set(hora_flatc flatc)
endif()

# --- tests and benchmarks -----------------------------------------------------------------
if(HORA_BUILD_TESTS)
  if(NOT HORA_FORCE_FETCH)
    find_package(GTest QUIET)
  endif()
  if(NOT TARGET GTest::gtest_main)
    set(INSTALL_GTEST OFF)
    hora_fetch(googletest)
  endif()
endif()

if(HORA_BUILD_BENCHMARKS)
  if(NOT HORA_FORCE_FETCH)
    find_package(benchmark QUIET)
  endif()
  if(NOT TARGET benchmark::benchmark)
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    set(BENCHMARK_ENABLE_WERROR OFF)
    hora_fetch(benchmark)
  endif()
endif()

target_link_libraries(hora_options INTERFACE hora::fmt hora::expected Threads::Threads)

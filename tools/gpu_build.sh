#!/usr/bin/env bash
# Builds what run_gpu_tests.sh and run_gpu_benchmarks.sh run into build/gpu, for the GPU that is here;
# they source this file in the root of the tree. Nothing is installed, and nothing fetched where the
# libraries of tools/setup_system.sh are there (CMAKE_PREFIX_PATH is respected).
#
# Usage: tools/gpu_build.sh
#
#   HORA_PYTHON              the Python to take; else the first of the PATH, or in VENV, with PyTorch
#                            for CUDA and what hora and its tests import
#   HORA_CUDA_ARCHITECTURES  as for CMake; by default what nvidia-smi says, else all

gpu_build_needs=(torch pybind11 numpy psutil rich yaml cloudpickle typing_extensions)
gpu_test_needs=(pytest pytest_timeout hypothesis)

# What an interpreter has: "cuda", "cpu" or "none"; PyTorch's version; what is missing, as pip names it.
describe_python='
import importlib.util, sys
version = "Python %d.%d" % sys.version_info[:2]
names = {"yaml": "pyyaml", "pytest_timeout": "pytest-timeout", "typing_extensions": "typing-extensions"}
lacks = [names.get(one, one) for one in sys.argv[1:] if importlib.util.find_spec(one) is None]
kind = "none"
if sys.version_info < (3, 10):
    lacks = ["python>=3.10"]
elif "torch" not in lacks:
    try:
        import torch
        kind, version = "cuda" if torch.version.cuda else "cpu", "PyTorch " + torch.__version__
    except Exception as error:
        lacks = ["torch that can be imported (%s)" % str(error).splitlines()[0][:200]]
print(kind, version, ", ".join(lacks), sep="|")
'

fail() {
  echo "gpu: $*" >&2
  exit 1
}

has_nvidia_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

python_candidates() {
  if [ -n "${HORA_PYTHON:-}" ]; then
    command -v "$HORA_PYTHON" || fail "HORA_PYTHON is $HORA_PYTHON: there is no such program"
  else
    type -aP python3 python | awk '!seen[$0]++'
    ! [ -x "${VENV:-.venv}/bin/python" ] || realpath -s "${VENV:-.venv}/bin/python"
  fi
}

# MODULE…: sets `python` to one that has them all. Without a GPU, PyTorch for CPUs will do.
choose_python() {
  local candidates candidate kind version lacks for_cpu='' seen='' incomplete=''
  candidates=$(python_candidates) || exit 1
  while read -r candidate; do
    IFS='|' read -r kind version lacks < <("$candidate" -c "$describe_python" "$@" 2>/dev/null) ||
      { kind=none version='' lacks='what it takes to start'; }
    seen+=$'\n'"  $candidate: $version${lacks:+${version:+, }lacks $lacks}"
    if [ "$kind" = cuda ] && [ -z "$lacks" ]; then
      python=$candidate
      return
    elif [ "$kind" = cuda ]; then
      incomplete=${incomplete:-"$candidate -m pip install ${lacks//,/}"}
    elif [ "$kind" = cpu ] && [ -z "$lacks" ]; then
      for_cpu=${for_cpu:-$candidate}
    fi
  done <<<"$candidates"
  if [ -n "$incomplete" ]; then
    fail "PyTorch for CUDA is there, but not all that hora and its tests import: $incomplete$seen"
  elif has_nvidia_gpu; then
    fail "there is a GPU, and no Python with PyTorch for CUDA; name one by HORA_PYTHON$seen"
  elif [ -z "$for_cpu" ]; then
    fail "no Python has all that hora and its tests import; name one by HORA_PYTHON, or" \
      "make setup installs it into ${VENV:-.venv}$seen"
  fi
  python=$for_cpu
}

has_gpu() { "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }

# "90-real" on an H100 or H200.
own_architecture() {
  nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
    sed -nE 's/^ *([0-9]+)\.([0-9]+) *$/\1\2-real/p' | sort -u | paste -sd ';' || true
}

# Fails where there is no GPU and no CUDA plugin to build, which CMake has explained; ends the script
# where something is wrong. What an earlier build has done is not done again.
build_for_gpu() {
  local targets=(_core gpu_test pack_bench hora_cuda_plugin) known options=() wanted=AUTO
  local architectures=${HORA_CUDA_ARCHITECTURES:-$(own_architecture)}
  PATH=$PATH:$(dirname "$python") # where its own cmake and ninja are
  command -v cmake >/dev/null || fail "there is no cmake (3.24 or newer): $python -m pip install cmake"
  command -v c++ >/dev/null || [ -n "${CXX:-}" ] || fail "there is no C++ compiler (Debian: g++)"
  if [ ! -e build/gpu/CMakeCache.txt ] && command -v ninja >/dev/null; then options=(-G Ninja); fi
  if has_nvidia_gpu; then wanted=REQUIRED; fi
  cmake -S . -B build/gpu "${options[@]}" -DCMAKE_BUILD_TYPE=Release -DHORA_BUILD_PYTHON=ON \
    -DHORA_BUILD_TESTS=ON -DHORA_BUILD_BENCHMARKS=OFF -DPython_EXECUTABLE="$python" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" -DHORA_CUDA="$wanted" \
    ${architectures:+-DHORA_CUDA_ARCHITECTURES="$architectures"} || exit 1
  known=$(cmake --build build/gpu --target help) || exit 1
  has_target() { grep -qE "^(\.\.\. )?$1(:|\$)" <<<"$known"; }
  if ! has_target gpu_test; then return 1; fi
  if has_target _torch_ops; then targets+=(_torch_ops); fi
  CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)} \
    cmake --build build/gpu --target "${targets[@]}" || exit 1

  # The package as it would be installed.
  rm -rf build/gpu/python
  mkdir -p build/gpu/python
  cp -r python/hora build/gpu/python/ || exit 1
  cp build/gpu/csrc/hora/*.so build/gpu/plugins/*.so build/gpu/python/hora/ || exit 1
  export PYTHONPATH=$PWD/build/gpu/python${PYTHONPATH:+:$PYTHONPATH}
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  cd "$(dirname "$0")/.."
  choose_python "${gpu_build_needs[@]}" "${gpu_test_needs[@]}"
  if ! build_for_gpu; then
    echo "build-gpu: nothing to build: there is no nvcc (see cmake's output above), and no GPU"
    exit 0
  fi
  echo "build-gpu: built into build/gpu with $python; next: make test-gpu, make bench-gpu"
fi

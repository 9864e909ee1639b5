# shellcheck shell=bash
# Sourced by run_gpu_tests.sh and run_gpu_benchmarks.sh, in the root of the tree: chooses a Python and
# builds what they run into build/gpu, for the GPU that is here. Nothing is installed, and nothing
# fetched where the libraries of tools/setup_system.sh are there (CMAKE_PREFIX_PATH is respected).
#
#   PYTHON                   one with PyTorch and what the tests need; else the one in VENV
#   HORA_CUDA_ARCHITECTURES  as for CMake; by default what nvidia-smi says, else all

# What the package and its tests import.
gpu_needs='import torch, pybind11, numpy, psutil, rich, yaml, cloudpickle, typing_extensions
import pytest, pytest_timeout, hypothesis'

# Sets `python`.
choose_python() {
  local candidate venv=${VENV:-.venv}
  for candidate in "${PYTHON:-python3}" "$venv/bin/python"; do
    if "$candidate" -c "$gpu_needs" 2>/dev/null; then
      python=$(command -v "$candidate")
      return
    fi
  done
  echo "gpu: ${PYTHON:-python3} lacks what the tests import (" \
    "$("${PYTHON:-python3}" -c "$gpu_needs" 2>&1 | tail -n 1)): setting up $venv" >&2
  make setup
  python=$PWD/$venv/bin/python
}

has_gpu() { "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }

# "90-real" on an H100 or H200.
own_architecture() {
  nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
    sed -nE 's/^ *([0-9]+)\.([0-9]+) *$/\1\2-real/p' | sort -u | paste -sd ';' || true
}

# Fails where there is no CUDA plugin to build, which CMake has explained; ends the script where
# something is wrong.
build_for_gpu() {
  local targets=(_core gpu_test pack_bench hora_cuda_plugin) known
  local architectures=${HORA_CUDA_ARCHITECTURES:-$(own_architecture)}
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DHORA_BUILD_PYTHON=ON \
    -DHORA_BUILD_TESTS=ON -DHORA_BUILD_BENCHMARKS=OFF -DPython_EXECUTABLE="$python" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
    ${architectures:+-DHORA_CUDA_ARCHITECTURES="$architectures"} || exit 1
  known=$(cmake --build build/gpu --target help) || exit 1
  if ! grep -q '^gpu_test:' <<<"$known"; then return 1; fi
  if grep -q '^_torch_ops:' <<<"$known"; then targets+=(_torch_ops); fi
  cmake --build build/gpu --target "${targets[@]}" || exit 1

  # The package as it would be installed.
  rm -rf build/gpu/python
  mkdir -p build/gpu/python
  cp -r python/hora build/gpu/python/ || exit 1
  cp build/gpu/csrc/hora/*.so build/gpu/plugins/*.so build/gpu/python/hora/ || exit 1
  export PYTHONPATH=$PWD/build/gpu/python${PYTHONPATH:+:$PYTHONPATH}
}

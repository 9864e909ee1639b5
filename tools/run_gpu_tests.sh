#!/usr/bin/env bash
# Build and run what needs a GPU: the kernels against the CPU, and the speed of packing. Says what is
# missing where there is no nvcc or no GPU, and succeeds: nothing was shown, nothing is broken.
set -euo pipefail
cd "$(dirname "$0")/.."

cmake --preset release
targets=$(cmake --build --preset release --target help)
if ! grep -q '^gpu_test:' <<<"$targets"; then
  echo "test-gpu: nothing to run: the CUDA plugin is not built (see cmake's output above)"
  exit 0
fi
cmake --build --preset release --target gpu_test pack_bench
log=$(mktemp)
trap 'rm -f "$log"' EXIT
build/release/tests/gpu/gpu_test | tee "$log"
build/release/tests/gpu/pack_bench
if grep -q '^\[  SKIPPED \]' "$log"; then
  echo "test-gpu: THERE IS NO GPU HERE, or not enough of one: tests were skipped, see why above"
fi

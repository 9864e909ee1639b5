#!/usr/bin/env bash
# Everything that needs a GPU: kernels against the CPU; the tests of the ranks with tensors on the GPU
# (1 rank over NCCL; 2 and 4 ranks that share it, through the host's memory); compute-sanitizer. Each
# step is recorded as it ends, in benchmarks/results/gpu-tests.jsonl and .md, and not repeated once it
# has passed. Where there is neither nvcc nor a GPU it says so, and succeeds: nothing was shown,
# nothing is broken.
#
# Usage: tools/run_gpu_tests.sh, with tools/gpu_build.sh's variables and
#
#   PARTS    parts or steps ("cpp np1 np2 np4 sanitizer"); --list shows them
#   LIMIT_S  stop after so many seconds, building among them; the next call goes on (exit code 75)
#   FRESH    repeat what has passed, too
#   RESULTS  the folder of the records
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/gpu_build.sh
. tools/gpu_build.sh
export OMP_NUM_THREADS=1

choose_python "${gpu_build_needs[@]}" "${gpu_test_needs[@]}"
options=(--parts "${PARTS:-cpp np1 np2 np4 sanitizer}")
if [ "${1:-}" = --list ]; then exec "$python" tools/gpu_tests.py --list "${options[@]}"; fi
echo "test-gpu: with $("$python" --version), $python"
if ! build_for_gpu; then
  echo "test-gpu: nothing to run: the CUDA plugin is not built (see cmake's output above)"
  exit 0
fi
"$python" -m hora.cli check | sed -n '/^Versions:/,/^This machine:/{/^This machine:/!p}'
if ! has_gpu; then
  if has_nvidia_gpu; then fail "there is a GPU, but PyTorch cannot use it: see the lines above"; fi
  build/gpu/tests/gpu/gpu_test --gtest_brief=1 | tail -n 4
  "$python" -m pytest -p no:cacheprovider -q tests/gpu | tail -n 4
  echo "test-gpu: THERE IS NO GPU HERE that PyTorch can use: what needs one was built, and not run"
  exit 0
fi
if [ -n "${RESULTS:-}" ]; then options+=(--results "$RESULTS"); fi
if [ -n "${FRESH:-}" ]; then options+=(--fresh); fi
if [ -n "${LIMIT_S:-}" ]; then options+=(--limit "$((LIMIT_S > SECONDS ? LIMIT_S - SECONDS : 1))"); fi
exec "$python" tools/gpu_tests.py "${options[@]}"

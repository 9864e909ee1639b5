#!/usr/bin/env bash
# Measure on a GPU, and write benchmarks/results/gpu.jsonl and gpu.md. Without a GPU it says so and
# writes nothing.
#
# Usage: tools/run_gpu_benchmarks.sh, with tools/gpu_build.sh's variables and
#
#   PARTS    some of "pack submit step staged" only; figures of the others stay as they are
#   LIMIT_S  stop after so many seconds, building among them, and say what is left (exit code 75)
#   COMMIT   where the tree is no clone: the commit that is measured
#   RESULTS  the folder of the records
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/gpu_build.sh
. tools/gpu_build.sh

choose_python "${gpu_build_needs[@]}"
if ! has_gpu; then
  if has_nvidia_gpu; then fail "there is a GPU, but $python cannot use it: torch.cuda.init() says why"; fi
  echo "bench-gpu: there is no GPU here that PyTorch can use: nothing was measured"
  exit 0
fi
if ! build_for_gpu; then
  echo "bench-gpu: nothing to measure: the CUDA plugin is not built (see cmake's output above)"
  exit 0
fi
options=(--pack-bench build/gpu/tests/gpu/pack_bench)
if [ -n "${RESULTS:-}" ]; then options+=(--output "$RESULTS"); fi
if [ -n "${PARTS:-}" ]; then options+=(--parts "$PARTS"); fi
if [ -n "${LIMIT_S:-}" ]; then options+=(--limit "$((LIMIT_S > SECONDS ? LIMIT_S - SECONDS : 1))"); fi
exec "$python" benchmarks/gpu/run.py "${options[@]}"

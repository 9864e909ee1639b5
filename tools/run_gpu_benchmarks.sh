#!/usr/bin/env bash
# Measure on a GPU, and write benchmarks/results/gpu.jsonl and gpu.md. Without a GPU it says so and
# writes nothing.
#
# Usage: [PYTHON=python] [COMMIT=abc1234] tools/run_gpu_benchmarks.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/gpu_build.sh
. tools/gpu_build.sh

python=${PYTHON:-python3}
if ! has_gpu 2>/dev/null; then
  python=${VENV:-.venv}/bin/python
  if ! has_gpu 2>/dev/null; then
    echo "bench-gpu: there is no GPU here that PyTorch can use: nothing was measured"
    exit 0
  fi
fi
choose_python
if ! build_for_gpu; then
  echo "bench-gpu: nothing to measure: the CUDA plugin is not built (see cmake's output above)"
  exit 0
fi
exec "$python" benchmarks/gpu/run.py --pack-bench build/gpu/tests/gpu/pack_bench

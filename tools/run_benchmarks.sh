#!/usr/bin/env bash
# Micro-benchmarks of the release build, then hora beside torch.distributed on 2 ranks.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in build/release/benchmarks/*; do
  if [ -x "$program" ]; then "$program"; fi
done
if [ -e benchmarks/peers/allreduce.py ]; then
  python benchmarks/peers/allreduce.py -np 2
fi

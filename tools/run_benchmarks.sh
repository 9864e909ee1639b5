#!/usr/bin/env bash
# Measures the release build beside the other libraries, all interleaved in one run, in less than
# 20 minutes: figures, goals and pictures go to benchmarks/results/, the table to README.md.
#
# Usage: tools/run_benchmarks.sh [options of benchmarks/peers/run.py]
set -euo pipefail
cd "$(dirname "$0")/.."

python benchmarks/peers/run.py --output benchmarks/results/peers.jsonl "$@"
if [ $# -eq 0 ]; then
  python benchmarks/peers/readme_table.py
fi

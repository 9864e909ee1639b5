#!/usr/bin/env bash
# Check style, or with --fix rewrite the sources in it: ruff, clang-format, codespell, mypy.
set -euo pipefail
cd "$(dirname "$0")/.."

folders=()
for folder in python tests tools benchmarks examples; do
  if [ -d "$folder" ]; then folders+=("$folder"); fi
done
mapfile -t cpp < <(find csrc tests benchmarks -name third_party -prune \
  -o \( -name '*.h' -o -name '*.cc' -o -name '*.cu' \) -print 2>/dev/null | sort)

if [ "${1:-}" = --fix ]; then
  ruff check --quiet --fix "${folders[@]}"
  ruff format --quiet "${folders[@]}"
  clang-format -i "${cpp[@]}"
else
  ruff check --quiet "${folders[@]}"
  ruff format --quiet --check "${folders[@]}"
  clang-format --dry-run -Werror "${cpp[@]}"
  codespell
  mypy --no-error-summary
  mypy --no-error-summary tests/typing/consumer.py
fi
echo "lint: clean"

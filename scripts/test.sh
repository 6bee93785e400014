#!/usr/bin/env bash
# Every check, in the order in which a failure is cheapest to learn. Called by `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
mypy
lint-imports
# A worker more than this machine has cores, since many tests wait for servers; one thread each, or they would fight over
# the cores.
export OMP_NUM_THREADS=1
exec python -m pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder "$@"

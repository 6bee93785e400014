#!/usr/bin/env bash
# Every check, in the order in which a failure is cheapest to learn. Called by `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
mypy
lint-imports
# Two workers, since many tests wait for servers; one thread each, since the two would fight over the cores.
export OMP_NUM_THREADS=1
exec python -m pytest --numprocesses 2 --dist loadgroup "$@"

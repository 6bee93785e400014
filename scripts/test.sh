#!/usr/bin/env bash
# Every check, in the order in which a failure is cheapest to learn. `make test` runs all tests, `make check` those that
# are not slow. Arguments are for pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
lint-imports
# The types are checked while the tests run: without a cache mypy takes a minute, on one core.
types=$(mktemp)
trap 'rm -f "$types"' EXIT
mypy > "$types" 2>&1 &
mypy=$!
# A worker more than this machine has cores, since many tests wait for servers; one thread each, or they would fight over
# the cores.
export OMP_NUM_THREADS=1
status=0
python -m pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder "$@" || status=$?
wait "$mypy" || status=1
cat "$types"
exit "$status"

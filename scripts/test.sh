#!/usr/bin/env bash
# Every check, in the order in which a failure is cheapest to learn. Called by `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
mypy
lint-imports
exec python -m pytest "$@"

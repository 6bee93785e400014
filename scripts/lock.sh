#!/usr/bin/env bash
# Rewrites requirements.lock from pyproject.toml, and the pins of bentofile.yaml from both. torch is installed on its own
# (`make setup`), so that a machine's CPU or CUDA build is taken; its line and its CUDA packages therefore stay out of
# the lock.
set -euo pipefail
cd "$(dirname "$0")/.."
torch=$(sed -n 's/^TORCH := torch==//p' Makefile)
printf 'torch==%s\n' "$torch" > .torch-constraint
trap 'rm -f .torch-constraint' EXIT
.venv/bin/uv pip compile --universal --python-version 3.11 --extra train --extra server --extra dev --no-header --no-annotate \
    --no-emit-index-url --constraint .torch-constraint pyproject.toml \
  | grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==' > requirements.lock.new
mv requirements.lock.new requirements.lock
.venv/bin/python scripts/serving_pins.py --write

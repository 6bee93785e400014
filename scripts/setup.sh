#!/usr/bin/env bash
# Makes .venv and installs exactly requirements.lock and torch into it. Usage: setup.sh PYTHON TORCH
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 torch=$2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $python is $("$python" --version 2>&1), Potstill needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11" >&2
  exit 60
}
echo "setup: making .venv and installing $(grep -c == requirements.lock) locked packages and $torch (one to three minutes)"
[ -x .venv/bin/python ] || "$python" -m venv .venv || {
  echo "setup: $python cannot make a virtual environment; install its venv package (python3-venv on Debian)" >&2
  exit 60
}
# A changed set of pins must not leave an old torch or a removed package behind.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock "$torch" \
  "$(grep '^uv==' requirements.lock)"
index=$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)
[ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
cert=$(.venv/bin/python -m pip config get global.cert 2>/dev/null || true)
[ -z "$cert" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$cert}
export VIRTUAL_ENV=$PWD/.venv
.venv/bin/uv pip install --quiet --compile-bytecode --requirement requirements.lock
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
.venv/bin/uv pip check --quiet

# make run: set up .venv and run the pipeline. make full: the same with the whole recipe of params/full.yaml.
# make check: the same set-up, then the checks that take three minutes. make test: the same set-up, then every check.
TORCH := torch==2.13.0
PYTHON ?= python3
BIN := .venv/bin
# No .pyc and every import is two to three times slower, in each stage of each run.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run full test test-offline chaos setup lock clean check

run: setup
	@$(BIN)/potstill run

full: setup
	@$(BIN)/potstill run --params params/full.yaml

check: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test.sh --numprocesses 2 -m "not slow"

test: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test.sh

# Every check without a network, as root; docs/tools.md says what has to be fetched before.
test-offline: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/offline.sh scripts/test.sh $(TESTS)

# Breaks things and prints what came of it, for hours; TRIALS="--tries 1" makes each trial once: docs/reliability.md.
chaos: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 python -m tests.chaos $(TRIALS)

setup: .venv/.installed

# torch first and alone: pip then takes the build that this machine's own configuration offers (CPU or CUDA).
# uv installs the rest in a third of pip's time, through pip's index where one is configured.
.venv/.installed: requirements.lock pyproject.toml Makefile scripts/setup.sh
	@scripts/setup.sh "$(PYTHON)" "$(TORCH)"
	@touch $@

lock: setup
	@scripts/lock.sh

clean:
	rm -rf .venv .work

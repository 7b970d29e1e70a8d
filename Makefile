# Everything here works in a fresh checkout: the environment makes itself, in .venv, from requirements.lock.

PYTHON ?= python3
ARGS ?=
RUNS ?= 200
SEED ?= 20261122

VENV := .venv
BIN := $(VENV)/bin
# The stamps carry the checkout's own path: a copied or moved checkout makes itself a new environment instead of
# quietly running the code of the old place.
HERE := $(shell pwd -P | cksum | cut -d ' ' -f 1)
OURS := $(VENV)/made-by-make
LOCKED := $(VENV)/locked-$(HERE)
READY := $(VENV)/ready-$(HERE)

LOCK_COMMAND = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock' --extra log --extra monitor --extra pkcs11 --group dev \
	pyproject.toml --output-file requirements.lock

BENCH_READY := $(VENV)/bench-$(HERE)
BENCH_LOCK_COMMAND = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock' --group bench --constraint requirements.lock \
	--output-file bench/requirements.lock

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help dev demo test lint check fault abuse bench bench-large bench-soak proto format lock clean

help:
	@echo 'make demo    run the whole mission on this machine: sign, log, prove, verify, refuse, catch a split view'
	@echo 'make test    run every test                  (make test ARGS="-k note" runs some)'
	@echo 'make check   formatting, lint, types, import layers, generated code, then every test  (make lint: without the tests)'
	@echo 'make bench   measure every promise about speed, in a quarter of an hour  (make bench ARGS="idle unary" measures some)'
	@echo '             bench-large adds ten million entries, bench-soak an hour of mixed load; see bench/README.md'
	@echo 'make fault   put logs through faults: kills, power cuts, bad disks  (make fault RUNS=1000 SEED=7)'
	@echo 'make abuse   abuse a log in every way for a minute, beside two who behave  (make abuse ARGS="--each 5")'
	@echo 'make dev     make the environment in .venv, and nothing else'
	@echo 'make format  format the code and apply the safe fixes of the linter'
	@echo 'make proto   derive treehead/v1 from protos/ again'
	@echo 'make lock    resolve the lock files again  (make lock ARGS=--upgrade takes newer versions)'
	@echo 'make clean   remove the environment and every cache'
	@echo
	@echo 'The first of them that needs it makes .venv, with $(PYTHON) (choose another: make demo PYTHON=python3.12).'

dev: $(READY)

$(LOCKED): requirements.lock
	@command -v $(PYTHON) >/dev/null || \
		{ echo 'Treehead needs Python 3.11 or newer; there is no "$(PYTHON)" here: name yours, as in make dev PYTHON=/path/to/python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Treehead needs Python 3.11 or newer; "$(PYTHON)" is older: name another, as in make dev PYTHON=/path/to/python3.12' >&2; exit 1; }
	@echo 'dev: making $(VENV) from requirements.lock (a minute or so, once)'
	@if [ -e $(VENV) ] && [ ! -e $(OURS) ]; then \
		echo 'There is a $(VENV) here that make did not make: move it away first' >&2; exit 1; fi
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || \
		{ echo '"$(PYTHON)" cannot make a virtual environment: install its venv module (Debian and Ubuntu: python3-venv)' >&2; rm -rf $(VENV); exit 1; }
	@touch $(OURS)
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	@touch $@

$(READY): $(LOCKED) pyproject.toml
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: dev
	@$(BIN)/treehead demo $(ARGS)

test: dev
	@$(BIN)/pytest $(ARGS)

lint: dev
	@echo 'lint: formatting'
	@$(BIN)/ruff format --check .
	@echo 'lint: rules'
	@$(BIN)/ruff check --quiet .
	@echo 'lint: types'
	@$(BIN)/mypy
	@echo 'lint: import layers'
	@$(BIN)/lint-imports --no-logo
	@echo 'lint: generated code'
	@$(BIN)/python scripts/generate_protobuf.py --check

check: lint test

bench: $(BENCH_READY)
	@$(BIN)/python -m bench $(ARGS)

bench-large: $(BENCH_READY)
	@$(BIN)/python -m bench.large $(ARGS)

bench-soak: $(BENCH_READY)
	@$(BIN)/python -m bench.soak $(ARGS)

$(BENCH_READY): bench/requirements.lock $(READY)
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement bench/requirements.lock
	@touch $@

fault: dev
	@$(BIN)/python -m tests.fault.run --runs $(RUNS) --seed $(SEED) $(ARGS)

abuse: dev
	@GRPC_VERBOSITY=NONE $(BIN)/python -m tests.abuse.run --seed $(SEED) $(ARGS)

proto: dev
	@$(BIN)/python scripts/generate_protobuf.py

format: dev
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

lock: dev
	@$(BIN)/$(LOCK_COMMAND) $(ARGS)
	@$(BIN)/$(BENCH_LOCK_COMMAND) $(ARGS)

clean:
	@rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything sets itself up in .venv; the only needs are Python 3.11 or later and pip.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# The Rust plug-in is built anew when its sources changed; without a Rust toolchain it is left out, with a line that says so.
PLUGIN := implementations/portask-native
NATIVE := .venv/.native

.PHONY: lab test native lint format memory bench docs clean help

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

lab: $(NATIVE)  ## measure every variant on this machine; ends with verdicts and a report
	$(BIN)/portask lab run --profile $(or $(PROFILE),quick) $(LAB)

test: $(NATIVE)  ## every test; two files at a time, for most of it is waiting
	@$(PLUGIN)/native.sh test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)

native: export PORTASK_REQUIRE_NATIVE = 1
native: $(NATIVE)  ## the Rust plug-in, built into .venv (lab, test and lint build it too where cargo is)

lint: $(NATIVE)  ## ruff, mypy --strict, and who may import whom
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy && $(BIN)/mypy tests experiments/benchmarks experiments/memory
	PYTHONPATH=$(PLUGIN)/python $(BIN)/lint-imports
	@$(PLUGIN)/native.sh lint

format: $(READY)  ## ruff's formatter and safe fixes
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

memory: $(NATIVE)  ## allocations and bytes a message of every variant, by memray
	$(BIN)/python experiments/memory/run.py $(MEMORY)

bench: $(NATIVE)  ## quick looks while developing, by pytest-benchmark
	$(BIN)/python -m pytest tests/bench --benchmark-only --benchmark-disable-gc -q $(PYTEST)

clean:  ## the environment and caches; results stay
	rm -rf .venv $(PLUGIN)/target .asv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Portask needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 $(MAKECMDGOALS)" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lab,test]'
	@touch $(READY)

$(NATIVE): $(shell find $(PLUGIN)/rust $(PLUGIN)/*.toml $(PLUGIN)/native.sh -type f) | $(READY)
	@$(PLUGIN)/native.sh build

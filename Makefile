# Everything sets itself up in .venv; the only needs are Python 3.11 or later and pip.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: lab test lint format memory bench docs clean help

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

lab: $(READY)  ## measure every variant on this machine; ends with verdicts and a report
	$(BIN)/portask lab run --profile $(or $(PROFILE),quick) $(LAB)

test: $(READY)  ## every test
	$(BIN)/python -m pytest $(PYTEST)

lint: $(READY)  ## ruff, mypy --strict, and who may import whom
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy && $(BIN)/mypy tests experiments/benchmarks experiments/memory
	$(BIN)/lint-imports

format: $(READY)  ## ruff's formatter and safe fixes
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

memory: $(READY)  ## allocations and bytes a message of every variant, by memray
	$(BIN)/python experiments/memory/run.py $(MEMORY)

bench: $(READY)  ## quick looks while developing, by pytest-benchmark
	$(BIN)/python -m pytest tests/bench --benchmark-only --benchmark-disable-gc -q $(PYTEST)

clean:  ## the environment and caches; results stay
	rm -rf .venv .asv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Portask needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 $(MAKECMDGOALS)" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lab,test]'
	@touch $(READY)

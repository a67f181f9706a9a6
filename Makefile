# make run    starts an all-in-one cluster in ./var
# make test   everything that must hold, in its short form
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q

.PHONY: run test test-long bench docs setup setup-dev check format clean

run: setup
	@$(BIN)/python scripts/run.py

test: setup-dev check
	$(PYTEST) --durations=10

test-long: setup-dev check
	TELEPORT_LONG=1 $(PYTEST) --timeout=900 --durations=20

bench: setup-dev
	$(BIN)/python -m bench

docs: setup-dev
	$(BIN)/python scripts/docs.py

check:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup:
	@PYTHON=$(PYTHON) scripts/setup.sh runtime

setup-dev:
	@PYTHON=$(PYTHON) scripts/setup.sh dev

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .hypothesis

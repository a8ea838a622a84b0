# `make demo` and `make test` need nothing but Python 3.11 and pip: they make .venv and install into it.
PYTHON ?= python3
BIN := .venv/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-draws check bench clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

.venv/.made-test: .venv/.made
	$(BIN)/python -m pip install --quiet --editable '.[test,check]'
	touch $@

.venv/.made-bench: .venv/.made-test
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

demo: .venv/.made  ## Train every recipe and show what came out
	$(BIN)/cograd demo

test: .venv/.made-test  ## Run the tests, the doctests and the snippets of the documentation
	$(BIN)/python -m pytest --numprocesses=2

test-draws: .venv/.made-test  ## Run every rule over 20,000 draws of degenerate gradients (ten minutes)
	$(BIN)/python tests/properties/draws.py --draws 20000

check: .venv/.made-test  ## Format, lint, types (of the snippets too), imports, unused code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/snippets.py
	$(BIN)/lint-imports
	$(BIN)/vulture

bench: .venv/.made-bench  ## Compare with hand-written loops, as ratios
	$(BIN)/python -m benchmarks

clean:  ## Remove what the other commands made
	rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache dist

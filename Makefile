# fedfm needs Python 3.11+, pip and make; everything else is installed into $(VENV).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
WORKERS ?= auto
CORE = $(VENV)/.core
DEV = $(VENV)/.dev

.PHONY: help quickstart install test test-slow lint bench clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

quickstart: install  ## tune a real encoder across 8 parties (about a minute after installation)
	$(BIN)/fedfm run quickstart

install: $(CORE)  ## the package and its core dependencies

test: $(DEV)  ## lint, types and the tests (about ten minutes on two cores)
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(DEV)  ## every recipe at its defaults, and the tests that need a large model (an hour or two)
	$(BIN)/python -m pytest -m slow

lint: $(DEV)  ## ruff and mypy only
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy

bench: $(DEV)  ## the project's own measurements, as JSON
	$(BIN)/fedfm bench

clean:  ## remove the environment and what runs wrote
	rm -rf $(VENV) runs build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e .
	touch $@

$(DEV): $(CORE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

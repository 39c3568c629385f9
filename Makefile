# Targets that a person types; `make help` lists them.
# PYTHON=/path/to/python3 chooses the interpreter of a new .venv, TESTS="-k name tests/unit" what pytest runs.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
TESTS ?=
export PYTHON

# A virtual environment does not survive being moved: another folder than the one it was made in means a new one.
MOVED := $(if $(filter $(CURDIR),$(shell cat $(VENV)/.folder 2>/dev/null)),,moved)

.PHONY: help setup setup-test demo test test-fast check format bench lock clean moved

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.setup-run ## create .venv with Leveret in it
	@echo "Leveret is set up: $(VENV)/bin/leveret --help"

setup-test: $(VENV)/.setup-test ## set up all that the tests need, RabbitMQ included
	@tools/setup_rabbitmq.sh

demo: $(VENV)/.setup-run ## run a real job on the embedded broker and show how it went
	@$(VENV_PYTHON) -m examples.demo

test: setup-test check ## set up, check and run every test, on RabbitMQ too
	$(VENV_PYTHON) -m pytest $(TESTS)

test-fast: $(VENV)/.setup-test ## run the tests that need no server, in less than a minute
	$(VENV_PYTHON) -m pytest $(or $(TESTS),tests/unit tests/property)

check: $(VENV)/.setup-test ## check format, style, types and layers
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(VENV)/.setup-test ## format the code and fix what can be fixed mechanically
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: setup-test ## measure speed on the embedded broker and on RabbitMQ
	$(VENV_PYTHON) -m tests.benchmarks

lock: ## take the newest versions of everything into constraints.txt
	tools/lock.sh

clean: ## delete .venv and everything that can be made again
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.setup-run: pyproject.toml constraints.txt tools/setup_venv.sh $(MOVED)
	@tools/setup_venv.sh
	@touch $@

$(VENV)/.setup-test: pyproject.toml constraints.txt tools/setup_venv.sh $(MOVED)
	@tools/setup_venv.sh dev
	@touch $@ $(VENV)/.setup-run

# The one door for every task; CI uses the same.
#   make up [ARGS="--port 9000"]   set everything up and run the platform
#   make test [ARGS="-k name"]     set everything up, then lint, types, import rules and all tests
#   make chaos [ARGS="--seconds 600 --seed 1"]   break everything at random under load, then check what callers saw
#   make bench [ARGS="P1 --save"]  set everything and the peers up, then measure side by side
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: up test lint unit chaos bench clean

up: $(VENV)/.server
	@exec $(BIN)/fas up $(ARGS)

test: lint unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/python -m tests.lanes $(ARGS)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "faaspot needs Python 3.11 or newer: install python3 and python3-venv, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "The venv module is missing: on Debian or Ubuntu, apt-get install python3-venv" >&2; exit 1; }

# uv (from the index, by pip) installs the rest: seconds instead of a minute.
$(VENV)/bin/uv: | $(VENV)/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.server: pyproject.toml | $(VENV)/bin/uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[server]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'
	@touch $@ $(VENV)/.server

chaos: $(VENV)/.dev
	$(BIN)/python -m tests.faults.chaos $(ARGS)

# The peers are not what we develop with: they get an environment of their own.
bench: $(VENV)-bench/.ready
	@$(VENV)-bench/bin/python -m bench $(ARGS)

$(VENV)-bench/.ready: pyproject.toml | $(VENV)/bin/uv
	@$(BIN)/uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV)-bench
	@$(BIN)/uv pip install --quiet --python $(VENV)-bench/bin/python -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-bench

# Each target works by itself on a bare machine with Python >= 3.11 and make: it makes .venv when it must.
#   PYTHON=python3.12   the interpreter to make .venv with
#   PIP_ARGS=…          more arguments of pip install (an index or a folder of wheels, for a CPU-only torch)

VENV     ?= .venv
BIN      := $(VENV)/bin
STAMP    := $(VENV)/.installed
PIP_ARGS ?=
JOBS     ?= 2
PYTHON   ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
              $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: install demo test test-fast test-slow notebooks lint format bench bench-peers clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "splitplan needs Python 3.11 or newer, and '$(PYTHON)' is not one. Install one, or name it: make install PYTHON=/path/to/python3" >&2; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || $(PYTHON) -m venv --clear $(VENV) \
	  || { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip check
	@touch $@

demo: $(STAMP)
	$(BIN)/splitplan demo --out demo

# What CI runs, cheapest first.
test: lint test-fast notebooks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) -rs -m "not slow" --durations=15

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) -rs -m slow --timeout=3600 --durations=15

notebooks: $(STAMP)
	SMOKE_TEST=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout=600 --timeout=900 notebooks

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Others' published inputs: every file of a known format below DIR, answers to OUT.
bench-peers: $(STAMP)
	@test -n "$(DIR)" && test -n "$(OUT)" || { echo "make bench-peers DIR=inputs OUT=answers" >&2; exit 1; }
	$(BIN)/python -m benchmarks.peers "$(DIR)" "$(OUT)"

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

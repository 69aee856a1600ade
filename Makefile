# Needs Python (3.11 or later), git and make; everything else goes into .venv.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3 python,\
  $(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
EXTRAS := train,eval,media,serve,dev
BIN := .venv/bin

# The demonstration: a question about a box (left, top, right, bottom in pixels) on a shipped picture.
PICTURE := examples/scene.png
BOX := 134 30 236 132
QUESTION := What is in the box?
DRAWING := demo.png

.PHONY: help install demo test check docs format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    install, then answer a question about a shipped picture"
	@echo "make test    install with everything for tests, then run them"
	@echo "make check   lint, format, types, direction of imports"
	@echo "make docs    run every code block of README.md and docs/"
	@echo "make format  put the code into the house's format"
	@echo "make clean   remove .venv and caches"

.venv/.made:
	@test -n "$(PYTHON)" || { echo "omnimix needs Python 3.11 or later; none was found. Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.plain: pyproject.toml | .venv/.made
	@echo "Installing omnimix into .venv (a minute or two, once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/.full: pyproject.toml golden/pyproject.toml | .venv/.made
	@echo "Installing omnimix and its test tools into .venv (a minute or two, once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' -e golden
	@touch .venv/.plain $@

install: .venv/.plain

demo: .venv/.plain
	$(BIN)/omnimix chat --image $(PICTURE) --box $(BOX) --ask "$(QUESTION)" --draw $(DRAWING)

test: .venv/.full
	$(BIN)/python -m pytest

check: .venv/.full
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 0 tests/test_imports.py

docs: .venv/.full
	$(BIN)/python -m pytest -n 0 -s tests/test_docs.py

format: .venv/.full
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Needs Python (3.11 or later), git and make; everything else goes into .venv, at the versions of
# constraints.txt. The two ends of the ranges in pyproject.toml have folders of their own.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3 python,\
  $(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
EXTRAS := train,media,serve,quantize,data,evaluate,openvino,gguf,dev
BIN := .venv/bin
PIP := -m pip install --quiet --disable-pip-version-check
# The golden cases are a package of their own, of the test set-up alone.
GOLDEN := $(if $(wildcard golden/pyproject.toml),-e ./golden)
PROJECTS := $(wildcard pyproject.toml golden/pyproject.toml)

# The demonstration: a question about a box (left, top, right, bottom in pixels) on a shipped picture.
PICTURE := examples/scene.png
BOX := 134 30 236 132
QUESTION := What is in the box?
DRAWING := demo.png

MUTANTS := 20
SEED := 0

.PHONY: help install demo test peers page page-check test-newest test-oldest pins check docs reference mutate format clean shards bench-train bench-serve
.DEFAULT_GOAL := help

help:
	@echo "make demo    install, then answer a question about a shipped picture"
	@echo "make test    install with everything for tests, then run them"
	@echo "make peers   the tests that transformers runs over its own models, over ours"
	@echo "make page    build the page of omnimix serve (needs Node 20 or later)"
	@echo "make shards  20 steps of tiny recipes by every plan over two processes, against one"
	@echo "make bench-train  training steps beside Trainer and TRL (BENCH='--all --minutes 80')"
	@echo "make bench-serve  answers beside transformers, llama.cpp and vLLM (BENCH='--rounds 2 --vllm PYTHON')"
	@echo "make check   lint, format, types, direction of imports"
	@echo "make docs    run every code block of README.md and docs/"
	@echo "make reference  write docs/reference/ from the docstrings"
	@echo "make mutate  small wrong changes, and whether a test notices (MUTANTS=20 SEED=0)"
	@echo "make format  put the code into the house's format"
	@echo "make clean   remove the environments and caches"
	@echo
	@echo "make test-newest  the tests on the newest versions of the ranges (.venv-newest)"
	@echo "make test-oldest  the tests on the oldest (.venv-oldest)"
	@echo "make pins         write constraints.txt from .venv-newest, after its tests have passed"

%/.made:
	@test -n "$(PYTHON)" || { echo "omnimix needs Python 3.11 or later; none was found. Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $*
	@touch $@

.venv/.plain: pyproject.toml constraints.txt | .venv/.made
	@echo "Installing omnimix into .venv (a minute or two, once)"
	$(BIN)/python $(PIP) -c constraints.txt -e .
	@touch $@

.venv/.full: $(PROJECTS) constraints.txt | .venv/.made
	@echo "Installing omnimix and its test tools into .venv (a minute or two, once)"
	$(BIN)/python $(PIP) -c constraints.txt -e '.[$(EXTRAS)]' $(GOLDEN)
	@touch .venv/.plain $@

.venv-newest/.full: $(PROJECTS) | .venv-newest/.made
	.venv-newest/bin/python $(PIP) --upgrade --upgrade-strategy eager -e '.[$(EXTRAS)]' $(GOLDEN)
	@touch $@

.venv-oldest/.full: $(PROJECTS) constraints-oldest.txt | .venv-oldest/.made
	.venv-oldest/bin/python $(PIP) -c constraints-oldest.txt -e '.[$(EXTRAS)]' $(GOLDEN)
	@touch $@

install: .venv/.plain

demo: .venv/.plain
	$(BIN)/omnimix chat --image $(PICTURE) --box $(BOX) --ask "$(QUESTION)" --draw $(DRAWING)

test: .venv/.full
	$(BIN)/python -m pytest

page/node_modules/.made: page/package-lock.json
	cd page && npm ci --no-audit --no-fund
	@touch $@

page: page/node_modules/.made
	cd page && npm run types -- -o src/lib/api.d.ts && npm run build

# What lies in the package is what the sources give.
page-check: page/node_modules/.made
	cd page && npm run types -- -o node_modules/.api.d.ts && diff -q node_modules/.api.d.ts src/lib/api.d.ts
	cd page && npm run check && npm test
	cd page && npm run build -- --outDir node_modules/.built
	diff -rq page/node_modules/.built src/omnimix/serve/page

peers: .venv/.full
	$(BIN)/python -m tests.peers.transformers_common

shards: .venv/.full
	$(BIN)/python -m tests.train.matrix

bench-train: .venv/.full
	nice $(BIN)/python -W ignore -m benchmarks.train --memory --profile $(BENCH)

test-newest test-oldest: test-%: .venv-%/.full
	.venv-$*/bin/omnimix env
	.venv-$*/bin/python -m pytest

pins: .venv-newest/.full
	.venv-newest/bin/python tools/pins.py > constraints.new
	mv constraints.new constraints.txt

check: .venv/.full
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/user_script.py
	$(BIN)/pyright --pythonpath $(BIN)/python tests/user_script.py
	$(BIN)/python -m pytest -n 0 tests/test_imports.py

# Without it the comparison goes on, and says so.
.venv/.llama-cpp: .venv/.full
	@echo "Building llama.cpp for the comparison (about 8 minutes, once)"
	$(BIN)/python $(PIP) -c constraints.txt -e '.[llama-cpp]' && touch $@ || echo "llama.cpp was not built"

bench-serve: .venv/.llama-cpp
	nice $(BIN)/python -W ignore -m benchmarks.serve --profile --out benchmarks/results $(BENCH)

docs: .venv/.full
	$(BIN)/python -m pytest -n 0 -s tests/test_docs.py

reference: .venv/.full
	$(BIN)/python tools/reference.py

mutate: .venv/.full
	$(BIN)/python tools/mutate.py -n $(MUTANTS) --seed $(SEED)

format: .venv/.full
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-newest .venv-oldest .mypy_cache .ruff_cache .pytest_cache .hypothesis

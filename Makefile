# Every target sets up what it needs; running it again is quick. `make` alone lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast chaos fuzz lint types check lock licences audit clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv and install the pinned dependencies (needs Python 3.11 or later)

$(STAMP): pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 (Debian: apt install python3.11-venv), or say make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing pinned dependencies (several GB once: PyTorch brings its CUDA libraries)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## score 500 rendered images from a local S3 server, and show the best and the worst captions
	@$(BIN)/python jobs/demo.py

test: $(STAMP) ## all tests, the slow ones too (a real Ray cluster, a real S3 server, the full-size model)
	@$(BIN)/python -m pytest

test-fast: $(STAMP) ## the fast tests alone
	@$(BIN)/python -m pytest -m "not slow"

chaos: $(STAMP) ## 30 runs on a cluster of several nodes, each killed at a random moment and resumed (a quarter of an hour)
	@$(BIN)/python -m tests.chaos.long 30 7

fuzz: $(STAMP) ## decode 400,000 mutated image files (an hour or less; the tests decode some thousand)
	@$(BIN)/python -m tests.isolation.mutations

lint: $(STAMP) ## ruff and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(STAMP) ## mypy --strict
	@$(BIN)/mypy
	@$(BIN)/mypy jobs

check: lint types test ## all that CI runs

lock: ## renew requirements.lock from pyproject.toml, in a fresh environment
	@fresh=$$(mktemp -d) && $(PYTHON) -m venv $$fresh/v && $$fresh/v/bin/pip install --quiet --upgrade pip \
	  && $$fresh/v/bin/pip install --quiet hatchling editables && $$fresh/v/bin/pip install --quiet --group dev -e '.[gcs,notebook]' --no-build-isolation \
	  && $$fresh/v/bin/pip freeze --exclude-editable | sed -E '/^(nvidia-|triton|cuda-)/s/$$/ ; sys_platform == "linux"/' > requirements.lock \
	  && rm -r $$fresh

licences: $(STAMP) ## renew docs/licences.md from what the pinned packages say of themselves
	@$(BIN)/python -m tests.licences > docs/licences.md.new && mv docs/licences.md.new docs/licences.md

audit: $(STAMP) ## known vulnerabilities (asks osv.dev, and says so where it cannot) and licences of what is pinned
	@fresh=$$(mktemp -d) && $(PYTHON) -m venv $$fresh/v && $$fresh/v/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 \
	  && $(BIN)/python -m tests.audit $$fresh/v/bin/pip-audit && rm -r $$fresh
	@$(BIN)/python -m pytest -q tests/test_licences.py

clean: ## remove what the targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache demo-output

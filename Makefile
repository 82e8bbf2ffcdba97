.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DATA := $(abspath $(or $(VOLATILITY_DATA),data))

.PHONY: help setup run test test-slow endurance check format ui kafka bench lock

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: .venv/ready ## Make .venv from requirements.lock (every other target does so by itself)

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

run: .venv/ready ## The main job: simulate three days if there is no data, build, train, report
	$(BIN)/volatility run

test: .venv/ready ## Run the tests
	$(BIN)/pytest

endurance: .venv/ready ## The tests of feed and serving at full length: 500,000 messages, 100 kills, ten hours live
	VOLATILITY_ENDURANCE=1 $(BIN)/pytest volatility_pipeline_tests/test_feed.py \
		volatility_pipeline_tests/test_land.py volatility_pipeline_tests/test_compose.py \
		volatility_pipeline_tests/test_live.py volatility_pipeline_tests/test_parity.py -v --timeout 3600

test-slow: .venv/ready ## Measure how often the intervals contain the truth
	VOLATILITY_SLOW=1 $(BIN)/pytest volatility_pipeline_tests/test_coverage.py \
		-o log_cli=true --log-cli-level=INFO --timeout 7200

check: .venv/ready ## Format, lint, types, SQL lint, definitions, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --processes 2 --nocolor sql
	$(BIN)/dagster definitions validate --log-level warning
	$(BIN)/python -m volatility_pipeline_tests.vulnerabilities

format: .venv/ready ## Format Python and SQL
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/sqlfluff fix --processes 2 sql

ui: .venv/ready ## Open Dagster on http://localhost:3000
	@mkdir -p $(DATA)/dagster && cp dagster.yaml $(DATA)/dagster/
	VOLATILITY_DATA=$(DATA) DAGSTER_HOME=$(DATA)/dagster $(BIN)/dagster dev --host 127.0.0.1 --port 3000

kafka: .venv/ready ## Run Apache Kafka on localhost:9092 until Ctrl+C (needs Java and Maven)
	$(BIN)/python -m volatility_pipeline_tests.broker

bench: .venv/ready ## Measure speed and memory against other ways (about five minutes)
	$(BIN)/python -m benchmarks

lock: ## Compile requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --group dev \
		--no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock

# make run    set everything up and start the broker
# make test   the whole suite, the same examples each time; TESTS=tests/model for a part, JOBS=1 for one process
# make hunt   other examples, for HUNT_MINUTES (30); what fails is printed with the command that repeats it
# make check  lint, types, imports
# make bench  the comparison tables (bench-amqp, bench-log: one of them)
# make image  build and try the container without an engine

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN_READY = $(VENV)/.run-ready
DEV_READY = $(VENV)/.dev-ready
BENCH_READY = $(VENV)/.bench-ready
# As many processes as there are cores; more than four would only wait for the same disk.
JOBS ?= auto
PARALLEL = --numprocesses $(JOBS) --maxprocesses 4 --dist loadgroup
HUNT_MINUTES ?= 30

.PHONY: run test hunt check format bench bench-amqp bench-log image clean

run: $(RUN_READY)
	@echo "Try it: curl -u guest:guest http://127.0.0.1:15672/api/overview, or examples/README.md; Ctrl-C stops."
	@exec $(BIN)/leveret serve --config config/broker.toml

test: $(DEV_READY)
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

hunt: $(DEV_READY)
	$(BIN)/python tests/hunt.py --minutes $(HUNT_MINUTES) -- $(PARALLEL) $(TESTS)

check: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: bench-amqp bench-log

bench-amqp: $(RUN_READY)
	$(BIN)/python benchmarks/run.py $(BENCH)

bench-log: $(BENCH_READY)
	$(BIN)/python benchmarks/run_log.py $(BENCH)

image:
	.ci/image

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Leveret needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(DEV_READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(RUN_READY)

$(BENCH_READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@ $(RUN_READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

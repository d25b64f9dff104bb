# `make` lists the targets. HOST, PORT, FRESHET_DATA_DIR and every other setting may be given to `make run`, as
# `make run PORT=9000` or in the environment: make hands both on.

MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHONS := python3.13 python3.12 python3.11 python3
BIN := .venv/bin
# Named, as the formatter would also put the examples of Markdown files into its shape.
PYTHON := $(wildcard app freshet alembic bench clients tests docs/examples)
LOCK := uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header

.PHONY: help
help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: .venv/runtime.lock $(BIN)/freshet  ## Start Freshet: http://127.0.0.1:8000, or HOST=… PORT=… FRESHET_DATA_DIR=…
	@exec $(BIN)/freshet run

# All of them as one process a core, each with a PostgreSQL of its own; a part of them as one, which begins sooner.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: test
test: .venv/dev.lock $(BIN)/freshet  ## The tests, on a PostgreSQL that they start themselves; ARGS=… goes to pytest
	@$(BIN)/python -m pytest $(or $(ARGS),$(SIDE_BY_SIDE))

CHECKS := ruff-format ruff-check codespell lint-imports flake8-async deptry pyright

.PHONY: check $(CHECKS)
check: $(CHECKS)  ## All that can be said about the code without running it; `make -k check` goes on after a failure
$(CHECKS): .venv/dev.lock
ruff-format:
	@echo $@; $(BIN)/ruff format --check --quiet $(PYTHON)
ruff-check:
	@echo $@; $(BIN)/ruff check --quiet $(PYTHON)
codespell:
	@echo $@; $(BIN)/codespell
lint-imports:
	@echo $@; $(BIN)/lint-imports
# Awaits in clean-up, swallowed cancellation, calls that block. Left out: yields in blocks, as whoever iterates a generator
# closes it; what ruff looks at as well; and what is a matter of taste.
flake8-async:
	@echo $@; $(BIN)/flake8 --select=ASYNC1,ASYNC2 --extend-ignore=ASYNC106,ASYNC110,ASYNC119,ASYNC120,ASYNC124 app freshet alembic bench
deptry:
	@echo $@; $(BIN)/deptry .
pyright:
	@echo $@; $(BIN)/pyright

.PHONY: bench
bench: .venv/dev.lock $(BIN)/freshet  ## The measurements of docs/performance.md; ARGS=… goes to bench.run
	@$(BIN)/python -m bench.run $(ARGS)

.PHONY: eval
eval: .venv/dev.lock $(BIN)/freshet  ## Retrieval on the labelled sets in DATA=…, for docs/retrieval.md; ARGS="--set NAME"
	@$(BIN)/python -m bench.evaluation $(if $(DATA),"$(DATA)",$(error Say where the labelled sets are: make eval DATA=directory)) $(ARGS)

.PHONY: chaos
chaos: .venv/dev.lock $(BIN)/freshet  ## The programmes of docs/reliability.md; ARGS="--seed 1 --count 200" goes to bench.chaos
	@$(BIN)/python -m bench.chaos $(ARGS)

.PHONY: format
format: .venv/dev.lock  ## Put the code into its format
	@$(BIN)/ruff check --quiet --fix-only $(PYTHON)
	@$(BIN)/ruff format $(PYTHON)

# What a marker rules out on every system is what pyproject.toml overrides to keep out: it has no place in the locks.
.PHONY: lock
lock:  ## Lock the newest dependencies that pyproject.toml allows, with uv
	$(LOCK) --upgrade pyproject.toml -o requirements.lock
	$(LOCK) --upgrade --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(LOCK) --upgrade --group clients -o requirements-clients.lock
	@for lock in requirements.lock requirements-dev.lock requirements-clients.lock; do \
	    awk '/^[a-z0-9]/ { kept = !/sys_platform == .(never|emscripten)./ } kept' $$lock > $$lock.new && mv $$lock.new $$lock; \
	done

# Each is the lock as it was when it was installed. What the developers' holds beyond the other does not disturb running.
.venv/runtime.lock: requirements.lock | .venv/bin/pip
	$(call install,$<)
	@cp $< $@

.venv/dev.lock: requirements-dev.lock requirements.lock | .venv/bin/pip
	$(call install,$<)
	@cp requirements.lock .venv/runtime.lock
	@cp $< $@

# Complete locks need no resolver, and one package declares more than it is used for: hence --no-deps.
define install
@echo 'Installing $(1) into .venv. This takes a minute or two.'
@if command -v uv > /dev/null; then \
    uv pip install --quiet --compile-bytecode --python .venv --no-deps --require-hashes -r $(1); \
else \
    $(BIN)/python -m pip install --quiet --progress-bar off --disable-pip-version-check --no-input --no-deps --require-hashes -r $(1); \
fi
endef

.venv/bin/pip:
	@for python in $(PYTHONS); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo 'Freshet needs Python 3.11 or newer: none of $(PYTHONS) is.' >&2; exit 1; \
	fi; \
	if ! $$found -c 'import venv, ensurepip' 2> /dev/null; then \
	    echo "$$found cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	fi; \
	echo "Making .venv with $$($$found --version)."; \
	$$found -m venv --clear .venv

# -P: the directory from which it is called may hold another `app`.
$(BIN)/freshet: Makefile | .venv/bin/pip
	@printf '%s\n' '#!/bin/sh' 'PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" exec "$(CURDIR)/$(BIN)/python" -P -m app "$$@"' > $@
	@chmod +x $@

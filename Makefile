# `make demo` merges real models and measures them; `make test` runs the tests. Both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup demo test test-all check format docs clean

help:
	@echo "make setup     .venv with eutectic and pinned dependencies"
	@echo "make demo      merge six adapters onto a real model and measure the result"
	@echo "make test      the tests (make test-all: the slow ones too)"
	@echo "make check     lint, format and types (make format: apply the format)"
	@echo "make docs      write the generated pages, and run every example of README and docs"

setup: $(STAMP)
	@true

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into .venv (the first time takes a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[models,demo,search,dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python examples/text/demo.py

test: $(STAMP)
	@scripts/test -n auto --dist worksteal -m "not slow"

test-all: $(STAMP)
	@scripts/test -n auto --dist worksteal

check: $(STAMP)
	@scripts/check

format: $(STAMP)
	@$(BIN)/ruff check --fix --quiet . && $(BIN)/ruff format .

docs: $(STAMP)
	@$(BIN)/python scripts/generate.py
	@scripts/test tests/docs -m "not slow"

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis examples/text/out

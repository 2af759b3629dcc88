# In: the checkout and the tools of the extra "dev", from .venv where it exists. Out: a formatted, checked or packed tree.
# Run: make quality (what CI runs), make style (mends what can be mended), make test, make wheel.
BIN := $(if $(wildcard .venv/bin/python),.venv/bin/,)

.PHONY: style quality test wheel ruff-check ruff-format mypy mlinter codespell

style:
	$(BIN)ruff check --fix .
	$(BIN)ruff format .

# Each check is a target, and the hooks of .pre-commit-config.yaml call the same targets.
quality: ruff-check ruff-format mypy mlinter codespell

ruff-check:
	$(BIN)ruff check .

ruff-format:
	$(BIN)ruff format --check .

mypy:
	$(BIN)mypy

mlinter:
	$(BIN)mlinter --no-progress --rules-toml mlinter-rules.toml redheart_hf

codespell:
	$(BIN)codespell

test:
	bash run_learning.sh test

wheel:
	$(BIN)python -m pip wheel . --no-deps --wheel-dir dist

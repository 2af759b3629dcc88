# The commands that decide whether a change is in order; pre-commit and .ci/run call these same targets.
# Run: `make style` (mends what can be mended), `make quality` (only looks), `make test`, `make wheel`.

BIN := $(if $(wildcard .venv/bin/python),.venv/bin/,)
MODEL := redheart_hf

.PHONY: style quality ruff mypy mlinter codespell test wheel

style:
	$(BIN)ruff check --fix .
	$(BIN)ruff format .

quality: ruff mypy mlinter codespell

ruff:
	$(BIN)ruff check .
	$(BIN)ruff format --check .

mypy:
	$(BIN)mypy

mlinter:
	$(BIN)mlinter --rules-toml mlinter-rules.toml --no-progress $(MODEL)

codespell:
	$(BIN)codespell

test:
	bash run_learning.sh test

wheel:
	$(BIN)python -m pip wheel . --no-deps --no-build-isolation --wheel-dir dist

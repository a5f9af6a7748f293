# Python 3.11+, git and make are enough: `make run`, `make test`.
COHORT ?= demo
STUDY ?= fedgin
PORT ?= 4200
WORKERS ?= 2
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help install run study test lint ui serve demo-retrain chaos bench sbom clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/'

install: $(INSTALLED)  ## a virtual environment in .venv with the versions of constraints.txt

run: $(INSTALLED)  ## reproduce a cohort and show its results: make run COHORT=demo | kidneys | liver
	@$(BIN)/python -m flows.run --cohort $(COHORT)

study: $(INSTALLED)  ## reproduce a study and show its tables: make study STUDY=fedgin | fedgin-real
	@$(BIN)/python -m flows.run --study $(STUDY)

test: $(INSTALLED)  ## run all tests, files of them side by side: make test WORKERS=2
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)  ## style, types and layers
	@$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/lint-imports

ui: $(INSTALLED)  ## Prefect's server and UI in the foreground: make ui PORT=4200
	@$(BIN)/python -m flows.server --port $(PORT)

serve: $(INSTALLED)  ## Prefect's server and UI, and every deployment of prefect.yaml: make serve PORT=4200
	@$(BIN)/python -m flows.serve --port $(PORT)

demo-retrain: $(INSTALLED)  ## rehearse a federation's life with phantoms, from exports to a rollback, in build/retraining
	@$(BIN)/python studies/retraining/rehearse.py

chaos: $(INSTALLED)  ## kill phases at random moments and compare the results; about half an hour
	@$(BIN)/python tests/chaos.py

bench: $(INSTALLED)  ## every script in benchmarks/
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

sbom: $(INSTALLED)  ## the environment's bill of materials, build/sbom.json, and docs/licences.md
	@$(BIN)/python -m flows.sbom

clean:  ## remove the environment and all caches of tools; data, models and reports stay
	rm -rf .venv .prefect build *.egg-info .coverage .*_cache .hypothesis && find . -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]' && touch $@

# Everything runs in .venv, which the first target makes. PYTHON picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test lint format clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[slurm,mb,export,geo,heic,dev]"
	touch $@

demo: .venv/ready  ## the default chain on the built-in pictures
	snakemake --cores all
	@echo; echo "Report: $(CURDIR)/results/demo/report/index.html"

test: .venv/ready lint  ## all checks and tests; files side by side, at most four
	pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/ready
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	snakemake --lint

format: .venv/ready
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

clean: .venv/ready  ## every artifact of the default data set
	snakemake --cores 1 clean

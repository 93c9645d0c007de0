.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 14

fmt: ## format the code
	ruff format .
	ruff check --fix .

lint: ## check style and docstrings
	ruff format --check .
	ruff check .

types: ## check types, on the package as it is installed
	rm -rf build/typecheck
	pip install --quiet --no-deps --target build/typecheck .
	MYPYPATH=build/typecheck mypy -p rdtrain

test: ## the quick tests
	pytest -n auto -m "not slow"

long: ## the tests that take minutes each: 10,000 forged files, 500 override lists, 2,000 epochs, 50 kills, more on clusters
	pytest -m long

e2e: ## the tests that run the installed commands
	pytest tests/e2e

docs: ## write the tables of the docs from the code
	python scripts/make_docs.py

installable: ## build a wheel, install it in a fresh environment, run it from another folder
	scripts/check_installable.sh

check: lint types ## everything that CI looks at
	pytest -n auto

.PHONY: help fmt lint types test long e2e docs installable check

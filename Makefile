# Prerequisites: CPython 3.11, make. `make help` lists the targets.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTEST := $(PY) -m pytest
MKDOCS := NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install quickstart real-smoke test test-clusters lint format docs audit chaos bench results lock golden clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv and install the tested set of packages (minutes the first time, then instant)

$(STAMP): pyproject.toml constraints.txt tools/install.sh
	@rm -f $@
	bash tools/install.sh $(VENV)
	@touch $@

quickstart: install ## train and score on a simulated world (half an hour); ARGS="key=value ..." sets config keys
	$(PY) -m ray_jobs.pipeline --preset quickstart $(ARGS)

real-smoke: install ## train and score on the real keyframes in $PDETR3D_REAL_DATA
	$(PY) -m ray_jobs.pipeline --preset real-smoke $(ARGS)

test: lint ## lint, then all tests; tests that need a GPU, compiled operators or root are skipped without them
	$(PYTEST) -n 3 --dist loadgroup $(ARGS)

test-clusters: install ## a pipeline on two nodes, killed jobs and searches, and servers and hosts for real: Ray with tokens, network namespaces, PostgreSQL (minutes)
	$(PYTEST) tests/clusters $(ARGS)

lint: install ## ruff, mypy, import-linter, hadolint, and the links of all documents
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy pdetr3d ray_jobs
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/hadolint --ignore DL3008 cluster/Dockerfile cluster/mlflow/Dockerfile
	$(MKDOCS) --quiet

format: install ## let ruff rewrite the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: install ## build the site of all documents: site/index.html
	$(PY) -m pdetr3d.config_keys > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md
	$(MKDOCS)

audit: install ## check the environment and list known vulnerabilities of the locked packages (needs the network)
	$(PY) -m pip check
	bash tools/audit.sh $(PY)

chaos: install ## inject faults into real jobs and print their cost (ARGS="disk worker": only these)
	$(PY) -m tests.chaos.suite $(ARGS)

bench: install ## run the benchmarks (more than an hour; use an idle machine, and ARGS="-k NAME" for one)
	$(PYTEST) benchmarks -o "python_files=bench_*.py" -s $(ARGS)

results: install ## measure the documents' tables again where the code changed (hours; ARGS=--list only lists; ARGS=--quick takes an hour)
	PYTHONPATH=. $(PY) tools/make_results.py $(ARGS)

lock: ## write constraints.txt from the packages in .venv; run `make test` before you commit it
	bash tools/lock.sh $(VENV) > constraints.txt.new
	mv constraints.txt.new constraints.txt

golden: install ## write tests/golden/STAGE.json of stages with a new version (training/stage_versions.py)
	$(PY) -m tests.golden_cases

clean: ## remove the files of tools (not .venv, not runs/)
	rm -rf .import_linter_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site *.egg-info
	find pdetr3d ray_jobs tune_spaces tests -name __pycache__ -type d -exec rm -rf {} +

# make install    the package in .venv (TORCH_INDEX chooses the build of torch)
# make demo       install, then the demo benchmark: data, training, evaluation, table (runs/demo)
# make test       install with the development tools, then the tests
# make test-lowest  the tests with the oldest versions that pyproject.toml allows, in an environment of their own
# make test-cluster  the tests that start a Ray cluster of two nodes on this machine
# make lint types the style and type checks; make format rewrites files to the style
# make mutants    the share of the planted faults of tests/mutants that a test notices; ONLY=PATTERN, JOBS=N, OUT=TABLE
# make campaigns  N random trials each of kills, full disks, damage, hostile files and misbehaving environments
# make coverage   the tests with a report of what they did not run; fails below the floor in pyproject.toml
# make docs       the documentation site in docs/_build/html, its notebooks executed; warnings are errors
# make dist       wheel and source archive in dist/, checked (RELEASING.md)
# make results    fill the generated parts of README.md and results/README.md from committed rows, draw the figures

PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
# One more index for torch alone, for the build that PyTorch's installation page names for a platform (CUDA, ROCm,
# the small CPU build on Linux); empty: what pip finds by itself.
TORCH_INDEX ?=
PIP_ARGS    ?=

BIN := $(VENV)/bin
# Python compiles a module when it is first imported; compiling everything beforehand takes half of the installation.
PIP := $(BIN)/python -m pip install --no-compile --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) $(PIP_ARGS)

.PHONY: install install-dev demo test test-lowest test-cluster mutants campaigns coverage lint types format docs dist readme results clean
.DELETE_ON_ERROR:

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "marlzoo needs Python 3.11 or newer, $(PYTHON) is %d.%d; choose another: make install PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)

# torch first and alone, so that its index is asked for nothing else.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) --no-deps --retries 1 --timeout 30 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev,docs]'
	touch $@

demo: install
	$(BIN)/marlzoo bench demo --out runs

test: install-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8

test-lowest:
	$(PYTHON) .ci/lowest.py > .lowest.txt
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=.lowest.txt

test-cluster: install-dev
	$(BIN)/python -m pytest -m cluster tests/test_ray.py

mutants: install-dev
	$(BIN)/python -m tests.mutants --only '$(or $(ONLY),*)' --jobs $(or $(JOBS),1) $(if $(OUT),--out $(OUT))

campaigns: install-dev
	$(BIN)/python -m tests.campaigns $(ONLY) --trials $(or $(N),100)

coverage: install-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --cov --cov-report=term --cov-report=xml

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

types: install-dev
	$(BIN)/mypy marlzoo algorithms baselines benchmarks tests examples

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install-dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html

dist: install-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

readme: install-dev
	$(BIN)/python docs/readme.py

results: readme

clean:
	rm -rf $(VENV) .venv-lowest .lowest.txt build dist marlzoo.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage* coverage.xml docs/_build docs/generated

# make demo: the whole job on bundled digits.   make bench: how fast it all is.
# make check: lint, types and fast tests.       make test: every test.
# All set up .venv with the tested versions themselves.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || \
  echo python3)
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo check lint test bench clean

demo: $(INSTALLED)
	$(VENV)/bin/vaefill demo --output runs/demo

check: lint
	$(VENV)/bin/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf build/types && mkdir -p build/types/vaefill
	ln -s $(CURDIR)/pipeline/[a-z_]*[a-z] $(CURDIR)/model $(CURDIR)/configs build/types/vaefill
	$(VENV)/bin/mypy

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# With a model trained on MNIST: make bench MODEL=runs/mnist
bench: $(INSTALLED)
	$(VENV)/bin/vaefill bench --output runs/bench $(if $(MODEL),--model $(MODEL))

$(INSTALLED): setup.py tests/constraints.txt
	$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and \
	  'vaefill needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint tests/constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info runs

# make up          run everything on this machine (PORT=8000 WORKERS=1 MODEL=efficientnet_lite0)
# make test        the tests
# make test-docker the tests that bring up docker-compose.yml (a Docker engine is needed)
# make check       format, lint, types
PORT ?= 8000
WORKERS ?= 1
MODEL ?= efficientnet_lite0
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.dev

.PHONY: up test test-docker check format clean

up: $(READY)
	@exec $(BIN)/smartbatch up --port $(PORT) --workers $(WORKERS) --model '$(MODEL)'

test: $(DEV)
	$(BIN)/pytest -m "not docker" $(ARGS)

test-docker: $(DEV)
	$(BIN)/pytest -m docker $(ARGS)

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) is here. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "creating the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# The pins are exact; PyTorch is most of the download. Progress is shown because it takes a while, once.
$(READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing (once; PyTorch takes a minute or more)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[worker,local,examples]'
	@touch $@

$(DEV): $(READY)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[worker,local,examples,test,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis

# make up          run everything on this machine (PORT=8000 WORKERS=1 MODEL=efficientnet_lite0)
# make test        run the tests that cover every promise once, in a few minutes: one broker, no browser
# make test-all    run all tests: both brokers, long runs, fuzzers, browser, Prometheus
# make test-docker run the tests of docker-compose.yml (needs a Docker engine)
# make chaos       inject random faults under load: SECONDS=60 SEED= RATE=400 BROKER=valkey, redis, cluster or sentinel
# make soak        run a steady load for SECONDS=600 and check that nothing grows
# make bench       measure every goal on this machine: ONLY=E,S ARGS=--quick; see docs/performance.md
# make benchmark   compare SmartBatch with a server without batching: MODEL=resnet18 ARGS='--users 200 --duration 10m'
# make study       find the settings with the most throughput within a latency: MODEL=resnet18 P99=200ms ARGS='--trials 50'
# make locust      send load to a running server, HOST=http://127.0.0.1:8000; ARGS=--headless without Locust's web page
# make check       format, lint, types
# make docs        build the documentation into site/; make docs-serve shows it on http://127.0.0.1:8008
# make generated   write the dashboard, the reference pages and the tables of docs/metrics.md from the code
# make k8s         write the plain manifests of deploy/kubernetes from the Helm chart
# make protocol    compile the gRPC messages of gateway/grpc/inference.proto
PORT ?= 8000
WORKERS ?= 1
MODEL ?= efficientnet_lite0
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOADTEST := $(VENV)/.loadtest
DEV := $(VENV)/.dev
EXTRAS := worker,text,client,grpc,otel,local,examples
DOCS := $(VENV)/.docs

.PHONY: up test test-all test-docker chaos soak bench benchmark study locust check docs docs-serve format generated k8s protocol clean

up: $(READY)
	@exec $(BIN)/smartbatch up --port $(PORT) --workers $(WORKERS) --model '$(MODEL)'

# Many tests judge how long something takes. What fails (1) beside others on a busy machine runs once more, alone.
define pytest
$(BIN)/pytest $(1) $(ARGS) || { [ $$? = 1 ] && \
  $(BIN)/pytest $(1) $(ARGS) -n 0 --last-failed --last-failed-no-failures none; }
endef

test: $(DEV)
	$(call pytest,-n 3 --dist loadscope -m "not docker and not extended")

test-all: $(DEV)
	$(call pytest,-m "not docker")

test-docker: $(DEV)
	$(call pytest,-m docker)

chaos: $(DEV)
	$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),60) --rate $(or $(RATE),400) \
	  --broker $(or $(BROKER),valkey) $(if $(SEED),--seed $(SEED)) $(ARGS)

soak: $(DEV)
	$(BIN)/python -m tests.chaos.soak --seconds $(or $(SECONDS),600) $(ARGS)

bench: $(LOADTEST)
	$(BIN)/python -m loadtest.bench $(if $(ONLY),--only $(ONLY)) $(ARGS)

benchmark: $(LOADTEST)
	@exec $(BIN)/python -m loadtest.benchmark --model '$(MODEL)' $(ARGS)

study: $(LOADTEST)
	@exec $(BIN)/python -m loadtest.study --model '$(MODEL)' $(if $(P99),--p99 $(P99)) $(ARGS)

locust: $(LOADTEST)
	@exec $(BIN)/locust -f loadtest/locustfile.py --host $(or $(HOST),http://127.0.0.1:$(PORT)) $(ARGS)

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@mkdir -p build/typecheck/smartbatch && ln -sfn $(CURDIR)/smartbatch/__init__.py build/typecheck/smartbatch/__init__.py && \
	  for folder in gateway worker shared deploy; do ln -sfn $(CURDIR)/$$folder build/typecheck/smartbatch/$$folder; done
	$(BIN)/pyright

docs: $(DOCS)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "the documentation is in site/"

docs-serve: $(DOCS)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8008

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generated: $(DEV)
	$(BIN)/python -m smartbatch.deploy.observability
	$(BIN)/python docs/generate.py

k8s: $(DEV)
	$(BIN)/python -m tests.kubernetes.chart

# The messages use their own descriptor pool, so that a program can also load another package's copy of them.
protocol: $(DEV)
	$(BIN)/python -m grpc_tools.protoc -I gateway/grpc --python_out=pyi_out:gateway/grpc gateway/grpc/inference.proto
	sed -i 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' gateway/grpc/inference_pb2.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) is here. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "creating the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# Versions are pinned exactly. pip's output is shown only if it fails.
$(READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing SmartBatch and PyTorch into $(VENV) (once; takes a minute or two)"
	@deploy/install.sh $(BIN)/python -e '.[$(EXTRAS)]'
	@touch $@

$(LOADTEST): $(READY)
	@echo "installing the load tests into $(VENV) (once)"
	@deploy/install.sh $(BIN)/python -e '.[$(EXTRAS),loadtest]'
	@touch $@

$(DEV): $(READY)
	@echo "installing what tests and benchmarks need into $(VENV) (once)"
	@deploy/install.sh $(BIN)/python -e '.[$(EXTRAS),loadtest,peers,test,dev]'
	@touch $@ $(LOADTEST)

$(DOCS): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing mkdocs into $(VENV) (once)"
	@deploy/install.sh $(BIN)/python -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache .hypothesis

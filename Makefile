# `make demo` and `make test` do all of their set-up themselves, the first time: everything goes into .venv.
#
#   make demo            the guide's federation, as nine processes: trains a model, and shows the table of cells
#   make test            the whole test suite, then branch coverage of cellnet/protocol
#   make long            tests that take minutes: the demo over each driver in each mode of security and over a mixed
#                        tree, whether faults and benchmarks find what they should
#   make faults          real processes under real faults: a table, and faults.json; QUICK=1: in under ten minutes
#   make soak            20,000 seeds of simulated networks over all cores; ARGS='--seeds 7-99 --jobs 1' for others
#   make fuzz            a million mutated inputs for all decoders, in four minutes; ARGS='--only frames --seed 7'
#   make bench           cellnet beside its peers: ARGS='requests --driver tcp', ARGS=--quick; some forty minutes for all
#   make bench-peers     install the peers that are not ours anyway: NVFlare and pyzmq, into .bench
#   make torch           the tests of torch's tensors, which installs torch: some 200 MB on a machine without it
#   make lint            ruff, mypy, import-linter
#   make clean           remove .venv, caches and what builds leave
#
# ARGS is handed on, as in `make demo ARGS=--json`, `make test ARGS=tests/test_fqcn.py` or
# `make faults QUICK=1 ARGS='--only F1,F22 --seed 7'`.
# PYTHON chooses the interpreter, as in `make test PYTHON=/opt/python3.13/bin/python3`.

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_CACHE_DIR := 1
export PIP_NO_INPUT := 1
export UV_CACHE_DIR := $(CURDIR)/$(VENV)/.uv-cache
export UV_PYTHON_DOWNLOADS := never
# two dozen short processes import what is installed here: compiled once, not by each
export UV_COMPILE_BYTECODE := 1
export UV_LINK_MODE ?= hardlink
# uv does not read pip's settings: a machine that has an index of its own has it there
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
ifeq ($(strip $(UV_DEFAULT_INDEX)),)
unexport UV_DEFAULT_INDEX
endif

.PHONY: help demo test long faults soak fuzz bench bench-peers torch lint clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   \(make .*\)/\1/p' Makefile

demo: $(VENV)/.stamp-demo
	@$(BIN)/cellnet demo $(ARGS)

ifeq ($(strip $(ARGS)),)
test: $(VENV)/.stamp-test
	$(BIN)/pytest -n 2 --dist worksteal -m "not measured and not long" --ignore tests/protocol
	@echo "What has a limit of processor time, alone:"
	$(BIN)/pytest -q -m measured
	@echo "The protocol's, with branch coverage, which would make all others slow:"
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -q -n 2 --dist worksteal tests/protocol
	$(BIN)/coverage combine -q
	$(BIN)/coverage report
else
test: $(VENV)/.stamp-test
	$(BIN)/pytest $(ARGS)
endif

long: $(VENV)/.stamp-test
	$(BIN)/pytest -n 2 --dist worksteal -m long $(ARGS)

faults: $(VENV)/.stamp-test
	@$(BIN)/python -m tests.faults $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

soak: $(VENV)/.stamp-test
	@$(BIN)/python -m cellnet.simulation --seeds 0-19999 --varied $(ARGS)
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m tests.fuzz
endif

fuzz: $(VENV)/.stamp-test
	@$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/.stamp-test
	@$(BIN)/python -m benchmarks $(ARGS)

bench-peers: .bench/nvflare/.stamp .bench/zmq/.stamp

.bench/nvflare/.stamp: PEERS := nvflare
.bench/zmq/.stamp: PEERS := pyzmq numpy
.bench/%/.stamp: | $(VENV)/.stamp-uv
	@echo "Installing $(PEERS) into $(@D) ..."
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	@$(BIN)/uv pip install --quiet --python $(@D)/bin/python $(PEERS) || { $(OFFLINE); }
	@touch $@

torch: $(VENV)/.stamp-test
	@$(BIN)/pip install --quiet -e '.[torch]'
	$(BIN)/pytest tests/test_tensors.py $(ARGS)

lint: $(VENV)/.stamp-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* build dist
	find cellnet relays provisioning tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says: this has been installed, for this pyproject.toml.
$(VENV)/.stamp-demo: WHAT := -e '.[demo]'
$(VENV)/.stamp-test: WHAT := -e '.[demo]' --group test
$(VENV)/.stamp-lint: WHAT := -e '.[demo]' --group test --group lint
$(VENV)/.stamp-demo $(VENV)/.stamp-test $(VENV)/.stamp-lint: $(VENV)/.stamp-uv pyproject.toml
	@echo "Installing into $(VENV) ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python $(WHAT) || { $(OFFLINE); }
	@touch $@

$(VENV)/.stamp-uv:
	@$(FIND_PYTHON); $(MAKE_VENV)
	@$(BIN)/python -m pip install --quiet uv || { $(OFFLINE); }
	@touch $@

OFFLINE := echo "cellnet: the packages could not be installed (see above): is there a way to a package index?" >&2; exit 1

# A name on the PATH may be a stub that only prints an error, so each candidate is asked.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
FIND_PYTHON = found=; bare=; old=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.14 python3.13 python3.12 python3.11 python3); do \
		if "$$candidate" -c "$(NEW_ENOUGH)" 2>/dev/null; then \
			if "$$candidate" -c "import ensurepip, venv" 2>/dev/null; then found=$$candidate; break; fi; \
			bare=$$candidate; \
		elif "$$candidate" -c "" 2>/dev/null; then old=$$candidate; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		if [ -n "$$bare" ]; then \
			echo "cellnet: $$bare has no venv module: install it (Debian, Ubuntu: apt install python3-venv), or give make PYTHON=..." >&2; \
		elif [ -n "$$old" ]; then \
			echo "cellnet: $$old is older than Python 3.11: install a newer one, or give make PYTHON=..." >&2; \
		else \
			echo "cellnet: no $(if $(PYTHON),Python at $(PYTHON),Python was found): install Python 3.11 or newer, or give make PYTHON=..." >&2; \
		fi; \
		exit 1; \
	fi

# One that was half made, or whose Python is gone, is made anew; one that works is kept.
MAKE_VENV = if ! $(BIN)/python -c "import pip; $(NEW_ENOUGH)" 2>/dev/null; then \
		echo "Making $(VENV) with $$("$$found" --version) ..."; \
		"$$found" -m venv --clear $(VENV) || { echo "cellnet: $$found cannot make $(VENV): see above" >&2; exit 1; }; \
	fi

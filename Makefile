# `make demo` and `make test` each build their own virtual environment from a
# pinned file; Python 3.11 to 3.13 with the venv module is all they need.

PYTHON ?= $(shell $(find-python))
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

TEST := .venv-test/bin
DEMO := .venv-demo/bin
PIP_TOOLS := pip-tools==7.6.2

# ensurepip is what Debian leaves out when python3-venv is not installed.
python-fits := import sys, venv, ensurepip; \
    sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
find-python = for python in python3.11 python3.12 python3.13 python3 python; do \
    if $$python -c '$(python-fits)' 2>/dev/null; then echo $$python; break; fi; done

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint stubs docs bench dist lock clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 8
	@echo 'Variables: PYTHON (the interpreter), PYTEST_ARGS, DEMO_ARGS, BENCH_ARGS.'

demo: .venv-demo/.ready ## install what the demonstration needs and run it
	$(DEMO)/svdinv demo $(DEMO_ARGS)

test: .venv-test/.ready ## install every framework; run the checks, the docs build, pytest
	$(MAKE) -j 2 lint docs
	$(TEST)/python -m pytest -n 2 --timeout 600 $(PYTEST_ARGS)

# Where a module has a stub, mypy reads that, unless it is told to read the module.
with-stubs = $(wildcard $(patsubst %.pyi,%.py,$(wildcard svdinv/*.pyi svdinv/*/*.pyi)))

lint: .venv-test/.ready ## ruff, mypy and the import contracts
	$(TEST)/ruff check .
	$(TEST)/ruff format --check .
	$(TEST)/mypy
	$(TEST)/mypy $(with-stubs)
	$(TEST)/lint-imports

stubs: .venv-test/.ready ## write the stubs of the modules of frameworks anew
	KERAS_BACKEND=torch $(TEST)/python tools/stubs.py

docs: .venv-test/.ready ## build the documentation, warnings as errors
	$(TEST)/python -m sphinx -W --keep-going -q -E -j 2 -b html \
	    -d docs/_build/doctrees docs docs/_build/html

bench: .venv-test/.ready ## time svdinv beside the frameworks' own SVDs
	@echo 'Times every contender in turns and writes docs/figures/speed* and'
	@echo 'networks*; for numbers to be trusted, let the machine do nothing else.'
	@echo 'BENCH_ARGS=--quick takes a minute or two.'
	$(TEST)/python benchmarks/speed.py $(BENCH_ARGS)
	$(TEST)/python benchmarks/kernels.py $(filter --quick,$(BENCH_ARGS))
	$(TEST)/python benchmarks/auto.py $(filter --quick,$(BENCH_ARGS))
	$(TEST)/python benchmarks/one_matrix.py $(filter --quick,$(BENCH_ARGS))
	$(TEST)/python benchmarks/operators.py $(filter --quick,$(BENCH_ARGS))
	$(TEST)/python benchmarks/batches.py $(filter --quick,$(BENCH_ARGS))
	$(TEST)/python benchmarks/graphs.py $(filter --quick,$(BENCH_ARGS))
	$(TEST)/python benchmarks/networks.py $(filter --quick,$(BENCH_ARGS))

dist: .venv-dist/.packages ## build the source archive and this platform's wheel, and check them
	rm -rf dist
	SVDINV_KERNELS=require .venv-dist/bin/python -m build
	.venv-dist/bin/twine check --strict dist/*

# The pinned files hold for all supported versions if locked with the oldest.
# The local version (+cpu) and the CUDA libraries of a torch build are left to
# pip, which takes those that the build it finds asks for; so only dist.txt, without
# torch, can have hashes, which pip wants of all packages or of none.
lock: .venv-lock/.ready ## pin requirements/*.txt anew, keeping pins that still fit
	.venv-lock/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	    || { echo 'make lock needs Python 3.11: make lock PYTHON=python3.11'; exit 1; }
	$(call pin,test,)
	$(call pin,demo,--constraint requirements/test.txt)
	$(call pin,dist,--constraint requirements/test.txt --generate-hashes)

define pin
.venv-lock/bin/pip-compile --quiet --strip-extras --allow-unsafe --no-annotate \
    --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
    $(2) --output-file requirements/$(1).txt requirements/$(1).in
sed -i -e '/^#/d' -e '/^$$/d' -e '/^--/d' -e 's/+cpu$$//' \
    -e '/^\(nvidia-\|triton==\|cuda-bindings==\|cuda-toolkit==\)/d' \
    -e '1i # Written by "make lock" from $(1).in; change that file, not this one.' \
    requirements/$(1).txt
endef

# Every process would compile all it imports, which for TensorFlow takes ten seconds.
unexport PYTHONDONTWRITEBYTECODE

# Each stamp is written last, so that a half-made environment is made again.
# Bytecode of all that is installed would take longer than that of what is imported.
# The second core compiles the kernels meanwhile; svdinv's installation would do it after.
.PRECIOUS: .venv-%/.packages
.venv-%/.packages: requirements/%.txt
	$(make-venv)
	@[ -e svdinv/kernels/libsvdinv.so ] || [ "$$SVDINV_KERNELS" ] || \
	    .venv-$*/bin/python svdinv/kernels/build.py >/dev/null 2>&1 & \
	.venv-$*/bin/python -m pip install --disable-pip-version-check --no-compile -r $< \
	    && { wait; touch $@; }

.venv-%/.ready: .venv-%/.packages pyproject.toml hatch_build.py $(wildcard svdinv/kernels/*.[ch] svdinv/kernels/build.py)
	@rm -f $@
	.venv-$*/bin/python -m pip install --disable-pip-version-check --quiet \
	    --no-deps --no-build-isolation --editable .
	@touch $@

.venv-lock/.ready: Makefile
	$(make-venv)
	.venv-lock/bin/python -m pip install --quiet '$(PIP_TOOLS)'
	@touch $@

define make-venv
@rm -rf $(@D)
@python='$(PYTHON)'; if ! "$${python:-false}" -c '$(python-fits)' 2>/dev/null; then \
    echo "No Python 3.11, 3.12 or 3.13 with the venv module was found$${python:+ ($$python)}." >&2; \
    echo 'Install one (on Debian or Ubuntu: apt install python3.11 python3.11-venv)' >&2; \
    echo 'or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11' >&2; \
    exit 1; \
fi; echo "$$python -m venv $(@D)"; "$$python" -m venv $(@D)
endef

clean: ## remove everything that these targets made
	rm -rf .venv-test .venv-demo .venv-dist .venv-lock build dist docs/_build docs/auto_examples demo-output \
	    .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find svdinv tests docs -name __pycache__ -prune -exec rm -rf {} +

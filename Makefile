# evakeras: every target starts from nothing and can be repeated.
PYTHON ?= python3
OLDEST_PYTHON ?= python3.10
OLDEST_TESTS ?= test
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
EXTRAS ?= cpu,notebooks,test
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
ifdef EVAKERAS_DATA  # the notebooks run in their own folder
# Not by $(abspath), which takes a path with spaces for several.
export EVAKERAS_DATA := $(shell $(PYTHON) -c 'import os, sys; print(os.path.abspath(sys.argv[1]))' '$(EVAKERAS_DATA)')
endif

.PHONY: help venv course full refresh results lab wheel colab badges test test-code \
  test-notebooks test-oldest test-jax test-torch test-helpers test-gpu test-gpu-notebooks test-colab \
  test-wheel fuzz bench bench-quick site test-site clean

help:
	@echo "To use the course:"
	@echo "  make course   execute every session in quick mode, leave notebooks and pages in build/course/"
	@echo "  make lab      open the notebooks in Jupyter Lab"
	@echo "  make full     execute every session in full length on MNIST, into build/full/"
	@echo "  make site     build the course as a web site, from the committed notebooks, into build/site/"
	@echo "  make colab    write notebooks that need no other file, to upload to Colab, into dist/colab/"
	@echo "  make wheel    pack the helpers, into dist/"
	@echo "  make venv     make the environment .venv alone"
	@echo "  make clean    remove the environments, build/ and dist/"
	@echo "To work on it:"
	@echo "  make test     run all checks and every notebook in quick mode (in parts: test-code, test-notebooks)"
	@echo "  make test-oldest  the same with Python 3.10 and the oldest version of every package that is allowed"
	@echo "  make test-jax, make test-torch  run the helpers' tests with Keras on JAX or PyTorch, without TensorFlow"
	@echo "  make test-gpu  run every notebook in full length on MNIST, on an NVIDIA GPU"
	@echo "  make test-colab  run each notebook for Colab in quick mode, alone in an empty folder"
	@echo "  make test-wheel  install the helpers into an empty environment and try them there"
	@echo "  make test-site  build the site, and open every page in a headless Chromium"
	@echo "  make fuzz     give ten thousand damaged or hostile files to everything that reads files"
	@echo "  make bench    measure how fast the helpers are against others, write benchmarks/README.md"
	@echo "  make bench-quick  the same in under five minutes, and write nothing"
	@echo "  make refresh  as make full, and write the outputs back into notebooks/ and README.md"
	@echo "  make results  write README, CLAIMS.md and assets/results.json anew from the notebooks' outputs"
	@echo "  make badges   put a badge for Colab into notebooks and README, once pyproject.toml has the address"

venv: $(VENV)/ready
	@echo "make venv: the environment $(VENV) is ready. In each terminal that is to use it: source $(BIN)/activate"

$(VENV)/ready: pyproject.toml $(wildcard $(CONSTRAINTS))
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.10 to 3.13 is needed, for which TensorFlow comes: make venv PYTHON=python3.12"; exit 1; }
	@echo "Making the environment $(VENV) (a few minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing: on Debian, apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable ".[$(EXTRAS)]"
	@touch $@

$(VENV)/ready-bench: $(VENV)/ready
	@echo "Adding PyTorch to $(VENV), to compare with (its small build for the CPU will do, if you install that first) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable ".[bench]"
	@touch $@

$(VENV)/ready-site: $(VENV)/ready
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "The site is built with Python 3.11 or newer: make site VENV=.venv-site PYTHON=python3.12"; exit 1; }
	@echo "Adding Sphinx and what the browser test needs to $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable ".[site,browser]"
	@touch $@

course: $(VENV)/ready
	@$(BIN)/python tools/course.py build/course

full: $(VENV)/ready
	@$(BIN)/python tools/course.py --full build/full

refresh: $(VENV)/ready
	@$(BIN)/python tools/course.py --full --in-place build/full
	@$(BIN)/python tools/results.py

results: $(VENV)/ready
	@$(BIN)/python tools/results.py

lab: $(VENV)/ready
	@$(BIN)/jupyter lab --ServerApp.root_dir=notebooks --ip=127.0.0.1

wheel: $(VENV)/ready
	@rm -rf build/lib build/bdist.*  # what is left there of an earlier version would be packed, too
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@echo "make wheel: $$(ls dist/*.whl)"

colab: $(VENV)/ready
	@$(BIN)/python tools/colab.py dist/colab

badges: $(VENV)/ready
	@$(BIN)/python tools/badges.py

test: test-code test-notebooks
	@echo "make test: all checks passed."

test-code: $(VENV)/ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q

test-notebooks: $(VENV)/ready
	@EVAKERAS_QUICK=1 $(BIN)/python -m pytest notebooks --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=300 -n 2 --dist loadscope -q

# The same checks in an environment of its own; OLDEST_TESTS=test-code leaves the notebooks out.
test-oldest:
	@$(OLDEST_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null || \
	  { echo "Python 3.10 is needed: make test-oldest OLDEST_PYTHON=/path/to/python3.10"; exit 1; }
	@$(MAKE) --no-print-directory $(OLDEST_TESTS) VENV=.venv-oldest PYTHON=$(OLDEST_PYTHON) CONSTRAINTS=constraints-oldest.txt

# Keras's other backends, where there is no TensorFlow: tests of what needs it are skipped, and say so.
test-jax test-torch: test-%:
	@$(MAKE) --no-print-directory test-helpers VENV=.venv-$* EXTRAS=$*,test KERAS_BACKEND=$*

test-helpers: $(VENV)/ready
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q  # more would wait for each other

# One notebook after the other, since each wants the whole GPU; no cell is cut off: some train for hours.
test-gpu:
	@$(PYTHON) tools/gpu.py
	@$(MAKE) --no-print-directory test-gpu-notebooks VENV=.venv-gpu EXTRAS=gpu,notebooks,test

test-gpu-notebooks: $(VENV)/ready
	@$(BIN)/python tools/gpu.py build/gpu
	@EVAKERAS_QUICK= TF_FORCE_GPU_ALLOW_GROWTH=true $(BIN)/python -m pytest build/gpu --nbval-lax \
	  --nbval-current-env --nbval-cell-timeout=1000000 -q

test-colab: colab
	@$(BIN)/python tools/run_colab.py dist/colab

test-wheel: $(VENV)/ready
	@$(BIN)/python tools/check_wheel.py

fuzz: $(VENV)/ready
	@$(BIN)/python tests/fuzz_loaders.py

bench: $(VENV)/ready-bench
	@$(BIN)/python benchmarks/run.py

bench-quick: $(VENV)/ready-bench
	@$(BIN)/python benchmarks/run.py --quick

site: $(VENV)/ready-site
	@$(BIN)/python tools/make_site.py build/site

test-site: site
	@$(BIN)/python -m pytest tests/browse_site.py -q

clean:
	rm -rf .venv .venv-* build dist

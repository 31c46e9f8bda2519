# evakeras: every target starts from nothing and can be repeated.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
ifdef EVAKERAS_DATA  # the notebooks run in their own folder
export EVAKERAS_DATA := $(abspath $(EVAKERAS_DATA))
endif

.PHONY: help venv course full refresh results lab wheel colab badges test test-code \
  test-notebooks test-colab test-wheel fuzz bench bench-quick clean

help:
	@echo "make course   execute every session in quick mode, leave notebooks and pages in build/course/"
	@echo "make lab      open the notebooks in Jupyter Lab"
	@echo "make full     execute every session in full length on MNIST, into build/full/"
	@echo "make refresh  as make full, and write the outputs back into notebooks/ and README.md"
	@echo "make test     run all checks and every notebook in quick mode"
	@echo "make bench    measure how fast the helpers are against others, write benchmarks/README.md"
	@echo "make bench-quick  the same in under five minutes, and write nothing"
	@echo "make wheel    pack the helpers for Colab, into dist/"
	@echo "make colab    write notebooks that need no other file, to upload to Colab, into dist/colab/"
	@echo "make test-colab  run each of them in quick mode, alone in an empty folder"
	@echo "make test-wheel  install the helpers into an empty environment and try them there"
	@echo "make fuzz     give ten thousand damaged or hostile files to everything that reads files"
	@echo "make badges   put a badge for Colab into notebooks and README, once pyproject.toml has the address"
	@echo "make venv     make the environment .venv alone"
	@echo "make clean    remove .venv, build/ and dist/"

venv: .venv/ready
	@echo "make venv: the environment .venv is ready."

.venv/ready: pyproject.toml $(wildcard $(CONSTRAINTS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed: make venv PYTHON=python3.12"; exit 1; }
	@echo "Making the environment .venv (a few minutes the first time) ..."
	@$(PYTHON) -m venv .venv || { echo "The venv module is missing: on Debian, apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable ".[cpu,notebooks,test]"
	@touch $@

.venv/ready-bench: .venv/ready
	@echo "Adding PyTorch to .venv, to compare with (its small build for the CPU will do, if you install that first) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable ".[bench]"
	@touch $@

course: .venv/ready
	@$(BIN)/python tools/course.py build/course

full: .venv/ready
	@$(BIN)/python tools/course.py --full build/full

refresh: .venv/ready
	@$(BIN)/python tools/course.py --full --in-place build/full
	@$(BIN)/python tools/results.py

results: .venv/ready
	@$(BIN)/python tools/results.py

lab: .venv/ready
	@$(BIN)/jupyter lab --ServerApp.root_dir=notebooks --ip=127.0.0.1

wheel: .venv/ready
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@echo "make wheel: $$(ls dist/*.whl)"

colab: .venv/ready
	@$(BIN)/python tools/colab.py dist/colab

badges: .venv/ready
	@$(BIN)/python tools/badges.py

test: test-code test-notebooks
	@echo "make test: all checks passed."

test-code: .venv/ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q

test-notebooks: .venv/ready
	@EVAKERAS_QUICK=1 $(BIN)/python -m pytest notebooks --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=300 -n 2 --dist loadscope -q

test-colab: colab
	@$(BIN)/python tools/run_colab.py dist/colab

test-wheel: .venv/ready
	@$(BIN)/python tools/check_wheel.py

fuzz: .venv/ready
	@$(BIN)/python tests/fuzz_loaders.py

bench: .venv/ready-bench
	@$(BIN)/python benchmarks/run.py

bench-quick: .venv/ready-bench
	@$(BIN)/python benchmarks/run.py --quick

clean:
	rm -rf .venv build dist

# make demo   set everything up in .venv and show the suite at work
# make test   set everything up in .venv and run all tests
# make lint   style, types and the floors of the house
# make smoke  train every arm in the rendered world, with so little of everything that it takes two minutes
# make wheel  build the wheel, install it into a clean environment and use it

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Test files run side by side, each with one thread.
JOBS ?= 2
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test lint smoke wheel speed env common clean

env: $(STAMP) common

# uv from the path, or from the package index into .uv; nothing outside this folder is touched.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@echo "setting up $(VENV): about a minute, 6.5 GB (the normal builds of torch)"
	@command -v uv >/dev/null || [ -x .uv/bin/uv ] || \
	{ $(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv; }
	@UV=$$(command -v uv || echo .uv/bin/uv); \
	[ -x $(BIN)/python ] || $$UV venv --quiet --python $(PYTHON) $(VENV); \
	VIRTUAL_ENV=$(VENV) $$UV pip install --quiet --compile-bytecode -r requirements.lock && \
	VIRTUAL_ENV=$(VENV) $$UV pip install --quiet --no-deps -e .
	@touch $@

# The common model tests of the installed transformers: only its source distribution has them. Fetched once a version.
common: $(STAMP)
	@$(BIN)/python tests/model/common/fetch.py $$(command -v uv || echo .uv/bin/uv)

demo: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m reports.demo

test: env
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

smoke: $(STAMP)
	@rm -rf build/smoke
	$(OFFLINE) $(BIN)/agevlm-train scenes --smoke --out build/smoke
	@rm -rf build/smoke

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

wheel: $(STAMP)
	rm -rf dist build/clean
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	UV=$$(command -v uv || echo .uv/bin/uv); \
	$$UV venv --quiet --python $(PYTHON) build/clean && \
	VIRTUAL_ENV=build/clean $$UV pip install --quiet -r requirements.lock && \
	VIRTUAL_ENV=build/clean $$UV pip install --quiet --no-deps dist/*.whl
	cd build && clean/bin/agevlm-eval --version && clean/bin/agevlm-train --version && \
	$(OFFLINE) OMP_NUM_THREADS=1 clean/bin/python -m reports.demo --out demo-runs >demo.txt && tail -n 3 demo.txt
	rm -rf build/clean build/demo-runs build/demo.txt

speed: $(STAMP)
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m benchmarks.speed

clean:
	rm -rf $(VENV) .uv dist build runs

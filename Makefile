# make demo: teacher, student, search and evaluation on the embedded corpus, in under ten minutes on two cores.
# make test: ruff, pyright and every test. Both make .venv first, from the versions and hashes in requirements/
# (Python 3.11 or newer; webrtcvad and pesq are built from source, which needs a C compiler).
# make lock: the newest versions that fit, into requirements/; make lock LOCK_FLAGS= keeps what fits still.
# make docs: the site, into site/; warnings are errors.
# make newest, make oldest: the tests on the newest and the oldest torch that pyproject.toml allows.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS ?=
# two workers, a test file each; PYTEST_FLAGS=-rs runs them one after another
PYTEST_FLAGS ?= -rs -n 2 --dist loadfile
LOCK_FLAGS ?= --upgrade
BIN = .venv/bin
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS)
STAMP = .venv/.mfdistill-installed
LOCKS = requirements/build.txt requirements/lock.txt
UV = .venv-uv/bin/uv
COMPILE = $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' $(LOCK_FLAGS)

.PHONY: demo test docs setup lock newest oldest clean

demo: setup
	$(BIN)/mfdistill demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

setup: $(STAMP)

# --no-build-isolation: what is built from source is built with the locked setuptools, Cython and numpy
$(STAMP): pyproject.toml $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed; make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r requirements/build.txt
	$(PIP) --require-hashes --no-build-isolation -r requirements/lock.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $(STAMP)

lock: $(UV)
	$(COMPILE) pyproject.toml --extra dev -c requirements/constraints.txt -o requirements/lock.txt
	$(COMPILE) requirements/build.in -c requirements/lock.txt -o requirements/build.txt

$(UV):
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) 'uv>=0.8'

# what a user's resolver takes today, without the lock
newest: $(UV)
	$(UV) venv -q --clear --python $(PYTHON) .venv-newest
	$(UV) pip install -q --python .venv-newest/bin/python -e '.[dev]'
	.venv-newest/bin/mfdistill info
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest $(PYTEST_FLAGS)

# torch as GPU images have it
oldest: $(UV)
	$(UV) venv -q --clear --python $(PYTHON) .venv-oldest
	$(UV) pip install -q --python .venv-oldest/bin/python -e '.[dev]' torch==2.11.0 torchaudio==2.11.0
	.venv-oldest/bin/mfdistill info
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest $(PYTEST_FLAGS)

clean:
	rm -rf runs build site .pytest_cache .ruff_cache

# make demo: teacher, student, search and evaluation on the embedded corpus, in under ten minutes on two cores.
# make test: ruff, pyright and every test. Both make .venv first (Python 3.11 or newer; Resemblyzer's webrtcvad needs a C compiler).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS ?=
BIN = .venv/bin
STAMP = .venv/.mfdistill-installed

.PHONY: demo test setup clean

demo: setup
	$(BIN)/mfdistill demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed; make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -e '.[dev,demo]'
	@touch $(STAMP)

clean:
	rm -rf runs build .pytest_cache .ruff_cache

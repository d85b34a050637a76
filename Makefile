PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt --editable
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: demo space test checks unit-tests test-all clean

demo: $(VENV)/.base
	$(BIN)/nullface demo --output demo

space: $(VENV)/.space
	$(BIN)/python space/app.py

# Both at once: mypy alone takes half a minute on a fresh clone.
test: $(VENV)/.installed
	$(MAKE) --jobs=2 checks unit-tests

checks: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

unit-tests: $(VENV)/.installed
	$(PYTEST)

# The rest as well: what takes more than three seconds, whole clips, and Ray if it is installed.
test-all: test
	$(PYTEST) -m "(slow or video or ray) and not gpu and not network and not browser"

# The package alone; then with the extra of the page; then with all extras that the tests need.
$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(INSTALL) .
	touch $@

$(VENV)/.space: $(VENV)/.base
	$(INSTALL) ".[space]"
	touch $@

$(VENV)/.installed: $(VENV)/.base
	$(INSTALL) ".[dev,docs,evaluation,space,training,video]"
	touch $(VENV)/.space $@

clean:
	rm -rf $(VENV) demo build *.egg-info

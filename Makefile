PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo space test clean

demo: $(VENV)/.installed
	$(BIN)/nullface demo --output demo

space: $(VENV)/.installed
	$(BIN)/python space/app.py

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev,docs,evaluation,space,training,video]"
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info

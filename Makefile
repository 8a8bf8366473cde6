# The README's commands.  `make demo` and `make test` do everything on a fresh Debian bookworm machine, as root.
PYTHON := .venv/bin/python
SOURCES := $(shell find xenvbd include -name '*.py[xd]' -o -name '*.[ch]')

.PHONY: help setup build build-debian demo test lint bench coverage clean

help:
	@echo "make demo    install what is needed, build, and run a disk on the simulated machine"
	@echo "make test    all tests that need no hypervisor"
	@echo "make lint    ruff, mypy, cython-lint"
	@echo "make bench   xenvbd beside fio on the same file, as a ratio"
	@echo "make coverage  line coverage of the Python and the Cython layers"
	@echo "make clean   remove everything that was built"

setup:
	@scripts/setup-dev

build: setup build/.built

build/.built: $(SOURCES) setup.py pyproject.toml
	@mkdir -p build
	@echo "build: compiling the Cython modules"
	@$(PYTHON) setup.py -q build_ext --inplace
	@touch $@

# The same sources with Debian's Cython and setuptools, out of the tree.
build-debian:
	PATH=/usr/bin:/bin /usr/bin/python3 setup.py -q build_ext --build-lib build/debian --build-temp build/debian-temp

test: build
	$(PYTHON) -m pytest -q

lint: setup
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/cython-lint xenvbd

clean:
	rm -rf build dist .venv *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage* htmlcov
	find xenvbd -name '*.so' -delete

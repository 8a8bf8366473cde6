# The README's commands.  `make demo` and `make test` do everything on a fresh Debian bookworm machine, as root.
PYTHON := .venv/bin/python
# Whatever the extension modules are made of: they are compiled again when one of these changes.
SOURCES := $(shell find xenvbd include -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.[ch]')
# What `make demo` and `make bench` do, for those who want something else.
DEMO := --guests 2 --seconds 5
BENCH :=
# Another Debian than this machine's, for the package and its tests: `make deb test-deb test-xen XENVBD_SUITE=trixie`.
export XENVBD_SUITE ?=
DIST := dist$(if $(XENVBD_SUITE),/$(XENVBD_SUITE))

.PHONY: dist/tested help setup build build-debian deb demo test test-asan test-crash test-xen test-xen-all bench-xen lint bench coverage fuzz clean

help:
	@echo "make demo      install what is needed, build, and run two disks on the simulated machine, every byte checked"
	@echo "make test      all tests that need no hypervisor"
	@echo "make test-asan  hostile frontends and the data plane's tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make test-crash  1,000 kills of what serves a disk, one before each store, each call failing, power cuts"
	@echo "make test-xen  the package on a real Xen with real guests in QEMU's software emulation: the short set"
	@echo "make test-xen-all  all of that; make bench-xen: beside xen-blkback and QEMU"
	@echo "make lint      ruff, mypy, cython-lint"
	@echo "make fuzz      libFuzzer and atheris on everything that parses what a guest or a client wrote, 60 s a target"
	@echo "make bench     xenvbd beside fio, qemu-storage-daemon, qemu-nbd and nbdkit on the same file, as ratios"
	@echo "make coverage  line coverage of the Python and the Cython layers"
	@echo "make build     compile the Cython modules in place; make build-debian: with Debian's Cython, in build/debian"
	@echo "make deb       the Debian package, in dist (DEB_BUILD_OPTIONS=nocheck make deb: without its tests)"
	@echo "make test-deb  lintian; build it again and compare; install, upgrade, remove and purge it in a chroot; as root"
	@echo "make clean     remove everything that was built"

setup:
	@scripts/setup-dev

build: setup build/.built

build/.built: $(SOURCES) setup.py pyproject.toml scripts/requirements-dev.txt
	@mkdir -p build
	@echo "build: compiling the Cython modules"
	@$(PYTHON) setup.py -q build_ext --inplace
	@touch $@

# The same sources with Debian's Cython and setuptools, out of the tree.  What compiles need not load: each module is imported.
build-debian: setup
	@echo "build-debian: compiling with Debian's Cython into build/debian"
	@PATH=/usr/bin:/bin /usr/bin/python3 setup.py -q build --build-lib build/debian --build-temp build/debian-temp
	@cd build/debian && /usr/bin/python3 -c 'import importlib, pkgutil, xenvbd; \
	    [importlib.import_module(m.name) for m in pkgutil.walk_packages(xenvbd.__path__, "xenvbd.") \
	     if not m.name.endswith("__main__")]'

.PHONY: test-deb
deb:
	@scripts/setup-dev --packages-only
	@scripts/deb

# What make deb built.
test-deb:
	@tests/debian/lint $(DIST)
	@tests/debian/reproducible $(DIST)
	@tests/debian/run $(DIST)/python3-xenvbd_*.deb

demo: build
	@scripts/demo $(DEMO)

test: build
	$(PYTHON) -m pytest -q

test-asan: setup
	@scripts/test-asan

# Kills: before every store to ring and journal, and CYCLES at random moments.  Faults: of every call.  Power cuts.
CYCLES := 1000
test-crash: build
	XENVBD_CRASH_ALL=1 XENVBD_CRASH_CYCLES=$(CYCLES) $(PYTHON) -m pytest -v -s tests/crash tests/faults tests/power

# What stands in dist is tested (`make deb`); without any, it is built, without its own tests.
dist/tested: setup
	@ls $(DIST)/python3-xenvbd_*.deb >/dev/null 2>&1 || DEB_BUILD_OPTIONS=nocheck $(MAKE) deb

test-xen: dist/tested
	timeout -k 10 2700 $(PYTHON) -m pytest --confcutdir=tests/xen -v -m short tests/xen

test-xen-all: dist/tested
	timeout -k 10 7200 $(PYTHON) -m pytest --confcutdir=tests/xen -v -m "not bench" tests/xen

bench-xen: dist/tested
	timeout -k 10 10800 $(PYTHON) -m pytest --confcutdir=tests/xen -v -m bench tests/xen

lint: setup
	.venv/bin/ruff check .
	.venv/bin/mypy
	PATH=$(CURDIR)/.venv/bin:$$PATH cython-lint xenvbd

# Each target for FUZZ seconds; tests/fuzz/fuzz SECONDS TARGET... for longer.
FUZZ := 60
fuzz: setup
	tests/fuzz/fuzz $(FUZZ)

bench: build
	@$(PYTHON) scripts/bench $(BENCH)

coverage: setup
	@scripts/coverage

clean:
	rm -rf build dist .venv *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage* htmlcov
	find xenvbd -name '*.so' -delete
	find xenvbd tests -name __pycache__ -prune -exec rm -rf {} +

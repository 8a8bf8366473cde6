"""Fixtures: the package compiled with a place to die before each store, forkers, a machine in shared memory."""
import contextlib
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import Cython
import pytest

from tests.crash.planes import Forker, Planes
from tests.crash.queues import Queues
from tests.crash.workload import Workload
from tests.support.fixtures import machine
from tests.support.guest import Guest

__all__ = ["machine"]

HERE = Path(__file__).parent
TOP = HERE.parents[1]
# The modules that write to ring and journal.
MODULES = ("ring", "journal", "generation", "dataplane/intake", "dataplane/reply", "dataplane/queue")
CFLAGS = ["-O1", "-std=gnu11", "-w", "-fPIC", "-D_GNU_SOURCE", "-D__XEN_TOOLS__"]


def generated(module):
    """The C that the build has made of a module."""
    return TOP / f"build/cython-{Cython.__version__}/xenvbd/{module}.c"


def compiled(module, tree):
    """Compile one module with crash points into the tree, unless it is there and newer."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built, source = tree / f"crash/{module}{suffix}", generated(module)
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", *CFLAGS, "-shared", f"-I{TOP}/include", f"-I{sysconfig.get_path('include')}", "-include",
                        HERE / "crashpoint.h", source, "-o", built], check=True, timeout=300)
    target = tree / f"xenvbd/{module}{suffix}"
    target.unlink(missing_ok=True)
    target.symlink_to(built)


@pytest.fixture(scope="session")
def crashing():
    """(tree, library): a package like ours whose stores are counted, and what counts them; kept in build/crash."""
    tree = TOP / "build/crash"
    shutil.rmtree(tree / "xenvbd", ignore_errors=True)
    tree.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-rs", TOP / "xenvbd", tree / "xenvbd"], check=True)
    for module in MODULES:
        compiled(module, tree)
    library = tree / "crashpoint.so"
    subprocess.run(["cc", "-O1", "-Wall", "-shared", "-fPIC", HERE / "crashpoint.c", "-o", library], check=True)
    return tree, library


@contextlib.contextmanager
def forking(*arguments):
    forker = Forker(*arguments)
    try:
        yield forker
    finally:
        forker.close()


@pytest.fixture(scope="session")
def crash_forker(crashing):
    with forking(*crashing) as forker:
        yield forker


@pytest.fixture(scope="session")
def forker():
    with forking() as forker:
        yield forker


@pytest.fixture
def arena(machine):
    """with arena(forker, seed=, blocks=, order={}, ring_order=, queues=, **guest's) as work: no plane is started."""
    machine.add_domain(1)

    @contextlib.contextmanager
    def make(forker, seed=1, blocks=16, order=None, ring_order=0, queues=1, **options):
        guests = [Guest(machine, 1, order=ring_order, **options) for _ in range(queues)]
        guest = guests[0] if queues == 1 else Queues(guests, seed)
        with tempfile.TemporaryDirectory(prefix="xenvbd-", dir="/dev/shm") as directory:
            planes = Planes(forker, machine, guest, directory, **(order or {}))
            with open(planes.image, "wb") as file:
                file.truncate(blocks * 4096)
            try:
                yield Workload(guest, planes, seed, blocks)
            finally:
                planes.end()
                guest.close()

    return make

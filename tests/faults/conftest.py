"""Fixtures: the library that fails calls, the process that it is preloaded into, a machine in shared memory."""
import subprocess
from pathlib import Path

import pytest

from tests.crash.planes import TOP, Forker
from tests.support.fixtures import machine

__all__ = ["machine"]

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def failcall():
    """failcall.c, compiled; kept in build/faults."""
    library = TOP / "build/faults/failcall.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,--no-as-needed",
                    HERE / "failcall.c", "-luring", "-o", library], check=True)
    return library


@pytest.fixture(scope="session")
def failing(failcall):
    forker = Forker(preload=failcall, script=HERE / "child.py")
    try:
        yield forker
    finally:
        forker.close()

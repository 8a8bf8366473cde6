"""Fixtures: the library that records, and a process that serves with it."""
import subprocess
from pathlib import Path

import pytest

from tests.crash.planes import TOP, Forker
from tests.support.fixtures import machine

__all__ = ["machine"]


@pytest.fixture(scope="session")
def recorder():
    """record.c, compiled; kept in build/power."""
    library = TOP / "build/power/record.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
                    Path(__file__).with_name("record.c"), "-o", library], check=True)
    return library


@pytest.fixture
def recording(recorder, tmp_path, monkeypatch):
    """A forker whose children record, and the file where."""
    record = tmp_path / "record"
    monkeypatch.setenv("XENVBD_RECORD", str(record))
    forker = Forker(preload=recorder)
    yield forker, record
    forker.close()

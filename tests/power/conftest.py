"""Fixtures: a machine in shared memory, and processes that serve a disk in it."""
import pytest

from tests.crash.planes import Forker
from tests.support.fixtures import machine

__all__ = ["machine"]


@pytest.fixture(scope="session")
def forker():
    made = Forker()
    try:
        yield made
    finally:
        made.close()

"""A simulated host whose every part is a process."""
import pytest

from tests.support.host import SimHost


@pytest.fixture
def host():
    made = SimHost()
    try:
        yield made.start()
    finally:
        made.close()

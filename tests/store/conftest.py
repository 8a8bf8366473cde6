"""The two stores that must behave alike, and sessions with them."""
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.preload.xenstored import Xenstored, build_shim
from xenvbd.store import Store
from xenvbd.store_sim import SimStore


@pytest.fixture
def shm() -> Iterator[Path]:
    """A directory on tmpfs with a name short enough for UNIX sockets in it."""
    with tempfile.TemporaryDirectory(prefix="xenvbd-", dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LD_PRELOAD object that lets xenstored run without Xen."""
    return build_shim(tmp_path_factory.mktemp("preload"))


@pytest.fixture(params=["sim", "xenstored"])
def machine(request: pytest.FixtureRequest, shm: Path) -> Iterator[SimStore | Xenstored]:
    """A running store with dom0 and domains 1 and 2: the simulated one, then Debian's xenstored.

    Without Debian's xenstored the test fails, it does not skip: that both agree shows the first right."""
    domids = (0, 1, 2)
    running = (SimStore(shm, domids).start() if request.param == "sim"
               else Xenstored(shm, request.getfixturevalue("shim"), domids))
    yield running
    running.stop()


@pytest.fixture
def connect(machine: SimStore | Xenstored) -> Iterator[Callable[[int], Store]]:
    """Opens sessions to the store as a domain, and closes them in the end."""
    stores: list[Store] = []

    def open_session(domid: int = 0) -> Store:
        stores.append(Store(machine.path(domid)))
        return stores[-1]

    yield open_session
    for store in stores:
        store.close()


@pytest.fixture
def dom0(connect: Callable[[int], Store]) -> Store:
    """A session as dom0."""
    return connect(0)


@pytest.fixture
def guest(connect: Callable[[int], Store]) -> Store:
    """A session as domain 1."""
    return connect(1)

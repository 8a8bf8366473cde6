"""A simulated machine with a guest, and a frontend's queue with the model backend behind it."""
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.frontend.model import Model
from tests.frontend.scripted import DEVID, Scripted
from xenvbd.frontend.frontend import Frontend
from xenvbd.frontend.queue import FrontQueue
from xenvbd.hv import sim
from xenvbd.store_sim import SimStore

GUEST = 5
SECTORS = 2048


@pytest.fixture
def machine() -> Iterator[sim.Machine]:
    with TemporaryDirectory(dir="/dev/shm") as directory, sim.Machine.create(f"{directory}/machine") as machine:
        machine.add_domain(GUEST)
        yield machine


@pytest.fixture
def queue_of(machine: sim.Machine) -> Iterator[Callable[..., tuple[FrontQueue, Model]]]:
    """queue_of(order=0, abi=..., ...): a queue, and the model that serves it."""
    made: list[tuple[FrontQueue, Model]] = []

    def make(*args: Any, **options: Any) -> tuple[FrontQueue, Model]:
        queue = FrontQueue(machine.join(GUEST), 0, *args, **options)
        model = Model(machine.join(0), GUEST, queue.refs, queue.port, queue.abi, index=options.get("index", 0))
        made.append((queue, model))
        return made[-1]

    yield make
    for queue, model in made:
        model.stop()
        queue.close()


@pytest.fixture
def queue(queue_of: Callable[..., tuple[FrontQueue, Model]]) -> FrontQueue:
    return queue_of()[0]


@pytest.fixture
def pair(queue_of: Callable[..., tuple[FrontQueue, Model]]) -> tuple[FrontQueue, Model]:
    return queue_of()


@pytest.fixture
def store_server(machine: sim.Machine) -> Iterator[SimStore]:
    with SimStore(machine.dir, (0, GUEST)) as server:
        yield server


@pytest.fixture
def backend_of(machine: sim.Machine, store_server: SimStore) -> Iterator[Callable[..., Scripted]]:
    """backend_of(**nodes): both areas, and a backend that stands at Initialising; its start() follows the frontend."""
    made: list[Scripted] = []

    def make(**nodes: str | None) -> Scripted:
        made.append(Scripted(machine, GUEST, {name.replace("_", "-"): value for name, value in nodes.items()}))
        return made[-1]

    yield make
    for backend in made:
        backend.stop()


@pytest.fixture
def backend(backend_of: Callable[..., Scripted]) -> Scripted:
    return backend_of().start()


@pytest.fixture
def frontend_of(machine: sim.Machine, store_server: SimStore) -> Iterator[Callable[..., Frontend]]:
    """frontend_of(**options): a Frontend of the guest, not connected yet."""
    made: list[Frontend] = []

    def make(**options: Any) -> Frontend:
        made.append(Frontend(machine.join(GUEST), None, DEVID, **{"timeout": 5.0, "io_timeout": 5.0, **options}))
        return made[-1]

    yield make
    for frontend in made:
        frontend.abandon()

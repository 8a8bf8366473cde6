"""Fixtures for tests of the data plane: a simulated machine, guests, planes; all of it is gone after the test."""
from __future__ import annotations

import itertools
import select
import shutil
import tempfile
import time
from collections.abc import Callable

import pytest

from tests.support.guest import Agreement, Guest
from xenvbd.dataplane import DataPlane, Settings
from xenvbd.disk.memory import MemoryDisk
from xenvbd.hv import sim

SIZE = 4 << 20


@pytest.fixture
def machine():
    directory = tempfile.mkdtemp(prefix="xenvbd-", dir="/dev/shm")
    with sim.Machine.create(directory + "/machine") as machine:
        yield machine
    shutil.rmtree(directory)


@pytest.fixture
def guests(machine):
    """guests(order=, abi=, index=): a new domain's Guest."""
    made, domids = [], itertools.count(1)

    def make(**options) -> Guest:
        domid = next(domids)
        machine.add_domain(domid)
        made.append(Guest(machine, domid, **options))
        return made[-1]

    yield make
    for guest in made:
        guest.close()


class Served:
    """A guest and the plane that serves it from a disk."""

    def __init__(self, machine, guest: Guest, disk, settings: Settings, journal, stats, agreement) -> None:
        self.guest, self.disk, self.cleanup = guest, disk, []
        self.plane = DataPlane(machine.join(0), disk, name=f"vbd{guest.domid}", settings=settings)
        self.plane.start(agreement or guest.agreement, journals(journal),
                         [stats] if stats is not None else None)
        self.events: list = []

    def expect(self, kind: str, timeout: float = 5):
        """Wait for an event of this kind."""
        deadline = time.monotonic() + timeout
        while True:
            self.events += self.plane.events()
            for event in self.events:
                if event.kind == kind:
                    self.events.remove(event)
                    return event
            assert select.select([self.plane.events_fd], [], [], max(0.0, deadline - time.monotonic()))[0], \
                f'no event "{kind}"; there were {self.events}'


def journals(given: int | list[int] | None) -> list[int] | None:
    """One for each queue."""
    return [given] if isinstance(given, int) else given


@pytest.fixture
def serve(machine, guests) -> Callable[..., Served]:
    """serve(guest=, disk=, journal=, stats=, agreement=, **settings): a running plane; all have defaults."""
    made: list[Served] = []

    def make(guest: Guest | None = None, disk=None, journal=None, stats=None, agreement=None, **settings) -> Served:
        disk = disk or MemoryDisk("mem:4M", SIZE)
        made.append(Served(machine, guest or guests(), disk, Settings(**settings), journal, stats, agreement))
        return made[-1]

    yield make
    for served in made:
        if hasattr(served.disk, "clear"):
            served.disk.clear()
        served.plane.stop_begin(abandon=True)
        assert served.plane.stop(timeout=20), "a plane that does not stop"
        served.plane.destroy()
        for undo in served.cleanup:
            undo()


@pytest.fixture
def serve_queues(machine, guests, serve) -> Callable[..., Served]:
    """serve_queues(count, disk=, **settings): a plane with so many rings of one domain; .rings has a Guest for each."""
    def make(count: int, disk=None, **settings) -> Served:
        first = guests()
        rings = [first, *(Guest(machine, first.domid) for _ in range(count - 1))]
        agreed = tuple(ring for guest in rings for ring in guest.agreement.queues)
        served = serve(first, disk=disk, agreement=Agreement(first.domid, 51712, "native", agreed),
                       **settings)
        served.rings = rings
        served.cleanup += [guest.close for guest in rings[1:]]
        return served

    return make

"""A hostile guest beside a victim, both served by this process.  After each case the victim must still be served,
and nothing may have been left behind."""
import os

import pytest

from tests.support.fixtures import guests, machine, serve, serve_queues
from tests.support.guest import OKAY, PAGE, Guest
from xenvbd.dataplane.iothread import ALIVE
from xenvbd.disk.memory import MemoryDisk
from xenvbd.stats import Snapshot

__all__ = ["guests", "machine", "serve", "serve_queues"]

SIZE = 4 << 20
CAPACITY = SIZE // 512


class Case:
    """One hostile guest, its plane and its disk; the image starts as random bytes."""

    def __init__(self, serve, guests, *, guest: Guest | None = None, ring: dict | None = None, read_only=False,
                 **settings) -> None:
        self.image = os.urandom(SIZE)
        self.guest = guest or guests(**(ring or {}))
        disk = MemoryDisk("mem:4M", SIZE)
        writer = guests()
        served = serve(writer, disk)
        for sector in range(0, CAPACITY, 2048):
            assert writer.write(sector, self.image[sector * 512:(sector + 2048) * 512]) == OKAY
        served.plane.stop()
        self.writer, self.disk = (serve, writer), disk
        self.served = serve(self.guest, disk, read_only=read_only, **settings)
        self.ring = memoryview(self.guest.ring_pages)
        self.served.cleanup.append(self.ring.release)

    def counters(self) -> dict[str, int]:
        return Snapshot.from_bytes(self.served.plane.statistics()[0]).counters

    def on_disk(self) -> bytes:
        """The whole image, read through another ring."""
        serve, reader = self.writer
        served = serve(reader, self.disk)
        data = b"".join(reader.read(sector, 2048) for sector in range(0, CAPACITY, 2048))
        served.plane.stop()
        return data

    def poke(self, field: int, value: int) -> None:
        """Overwrite an index of the shared ring: REQ_PROD, REQ_EVENT, RSP_PROD or RSP_EVENT."""
        self.ring[field * 4:field * 4 + 4] = (value % (1 << 32)).to_bytes(4, "little")

    def expect_quarantine(self) -> None:
        """The ring is stopped: one event, no more answers, whatever is sent or rung."""
        self.guest.evtchn.notify(self.guest.port)
        self.served.expect("quarantined")
        assert self.counters()["quarantined"] == 1
        before = bytes(self.ring[8:12])
        for _ in range(5):
            self.guest.evtchn.notify(self.guest.port)
        assert self.guest.quiet(0.1)
        assert bytes(self.ring[8:12]) == before, "rsp_prod moved"
        assert self.served.plane.events() == []
        assert self.served.plane.stop(timeout=5)


@pytest.fixture
def case(serve, guests):
    """case(ring={"order":, "abi":, "index":}, **settings): a Case."""
    return lambda **options: Case(serve, guests, **options)


@pytest.fixture
def nothing_left(machine):
    """Of the guests' pages nothing is mapped after the case, and no I/O thread is alive."""
    yield
    assert [domid for domid in machine.domains() if machine.mappings(domid)] == []
    assert not ALIVE


@pytest.fixture(autouse=True)
def victim(nothing_left, serve, guests):
    """Another guest: served before, during and after."""
    guest = serve(guests()).guest
    data = os.urandom(PAGE)
    assert guest.write(8, data) == OKAY
    yield guest
    assert guest.read(8, 8) == data
    assert guest.write(16, data) == guest.flush() == OKAY

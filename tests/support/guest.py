"""A guest driven by hand: it puts what it likes on the ring, and checks that each request is answered once."""
from __future__ import annotations

import itertools
import select
import time
from dataclasses import dataclass

from xenvbd.hv.evtchn import EventChannels
from xenvbd.hv.grant import GrantSharer
from xenvbd.ring import FrontRing, Request

READ, WRITE, BARRIER, FLUSH, RESERVED, DISCARD, INDIRECT = range(7)
OKAY, ERROR, EOPNOTSUPP = 0, -1, -2
PAGE, SECTOR = 4096, 512


def until(condition, timeout: float = 5) -> None:
    """Wait until condition() is true; fail after timeout seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


@dataclass
class Ring:
    ring_refs: tuple[int, ...]
    event_channel: int


@dataclass
class Agreement:
    domid: int
    devid: int
    abi: str
    queues: tuple[Ring, ...]
    sector_unit: int = SECTOR
    persistent: bool = False


class Pages:
    """Granted pages of a guest: their grefs, and their bytes as one memoryview."""

    def __init__(self, shared) -> None:
        self.shared, self.refs, self.bytes = shared, shared.refs, memoryview(shared)

    def segments(self, sectors: int | None = None, skew: int = 0) -> tuple[tuple[int, int, int], ...]:
        """Segments of so many sectors from the first page on, which starts skew sectors in."""
        left, found = (sectors or len(self.refs) * 8) + skew, []
        for gref in self.refs:
            found.append((gref, skew, min(left, 8) - 1))
            left, skew = left - min(left, 8), 0
            if not left:
                break
        return tuple(found)


class Guest:
    """One ring of one domain.  Every response is checked: its id is outstanding, its operation the request's."""

    def __init__(self, machine, domid: int, *, order: int = 0, abi: str = "native", index: int = 0,
                 persistent: bool = False) -> None:
        self.machine, self.domid, self.abi, self.persistent = machine, domid, abi, persistent
        self.hypervisor = machine.join(domid)
        self.sharer, self.evtchn = GrantSharer(self.hypervisor), EventChannels(self.hypervisor)
        self.ring_pages = self.sharer.share(0, 1 << order)
        self.ring = FrontRing(self.ring_pages, abi, index)
        self.port = self.evtchn.bind_unbound(0)
        self.outstanding: dict[int, int] = {}
        self.answered: dict[int, int] = {}
        self.events = 0
        self._ids = itertools.count(1)
        self._pages: list[Pages] = []

    @property
    def agreement(self) -> Agreement:
        return Agreement(self.domid, 51712, self.abi, (Ring(self.ring_pages.refs, self.port),),
                         persistent=self.persistent)

    def pages(self, count: int, writable: bool = True) -> Pages:
        self._pages.append(Pages(self.sharer.share(0, count, writable)))
        return self._pages[-1]

    def request(self, operation: int, sector: int = 0, segments=(), **fields) -> Request:
        return Request(operation, fields.pop("id", None) or next(self._ids), sector, segments, **fields)

    def indirect(self, sub: int, sector: int, segments, **fields) -> Request:
        """An INDIRECT request whose segments are written into fresh pages."""
        table = self.pages(max(1, -(-len(segments) // 512)))
        for i, (gref, first, last) in enumerate(segments):
            table.bytes[8 * i:8 * i + 8] = gref.to_bytes(4, "little") + bytes((first, last, 0, 0))
        nr = fields.pop("nr_segments", len(segments))
        return self.request(INDIRECT, sector, sub=sub, nr_segments=nr, grefs=fields.pop("grefs", table.refs), **fields)

    def put(self, *requests: Request) -> None:
        for request in requests:
            self.ring.put(request)
            assert request.id not in self.outstanding, "the test's own ids must be unique"
            self.outstanding[request.id] = request.sub if request.operation == INDIRECT else request.operation

    def push(self) -> None:
        if self.ring.push():
            self.evtchn.notify(self.port)

    def take(self) -> None:
        """Take what has been answered."""
        for _ in range(self.ring.pending()):
            id_, operation, status = self.ring.take()
            assert id_ in self.outstanding, f"response to {id_}, which is not outstanding"
            assert operation == self.outstanding.pop(id_), f"response to {id_} carries operation {operation}"
            self.answered[id_] = status

    def wait(self, timeout: float = 10) -> None:
        """Sleep until an event comes; fails after timeout seconds."""
        assert select.select([self.evtchn.fileno()], [], [], timeout)[0], \
            f"no event in {timeout} s; outstanding: {self.outstanding}"
        while (port := self.evtchn.pending()) is not None:
            self.events += 1
            self.evtchn.unmask(port)

    def submit(self, *requests: Request) -> None:
        """Put requests on the ring together."""
        self.put(*requests)
        self.push()

    def finish(self, *requests: Request, timeout: float = 10) -> list[int]:
        """Wait for the answers to requests; their statuses."""
        deadline = time.monotonic() + timeout
        while True:
            self.take()
            if all(r.id in self.answered for r in requests):
                return [self.answered.pop(r.id) for r in requests]
            if not self.ring.final_check():
                self.wait(max(0.0, deadline - time.monotonic()))

    def do(self, *requests: Request, timeout: float = 10) -> list[int]:
        """Put requests on the ring together, and wait for their answers."""
        self.submit(*requests)
        return self.finish(*requests, timeout=timeout)

    def quiet(self, seconds: float = 0.2) -> bool:
        """Whether nothing is answered for so long."""
        before = len(self.answered)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.take()
            if len(self.answered) != before:
                return False
            time.sleep(0.01)
        return True

    # What a well-behaved driver does

    def write(self, sector: int, data: bytes) -> int:
        pages = self.pages(-(-len(data) // PAGE))
        pages.bytes[:len(data)] = data
        return self.do(self._data(WRITE, sector, pages.segments(len(data) // SECTOR)))[0]

    def read(self, sector: int, sectors: int) -> bytes:
        pages = self.pages(-(-sectors // 8))
        assert self.do(self._data(READ, sector, pages.segments(sectors))) == [OKAY]
        return bytes(pages.bytes[:sectors * SECTOR])

    def flush(self) -> int:
        return self.do(self.request(FLUSH))[0]

    def _data(self, operation: int, sector: int, segments) -> Request:
        make = self.request if len(segments) <= 11 else self.indirect
        return make(operation, sector, segments)

    def close(self) -> None:
        self.ring = None
        for pages in self._pages:
            pages.bytes.release()
        self.sharer.close()
        self.evtchn.close()

"""A small backend in plain Python: the counterpart of the frontend in its own tests.

Its ring layouts are written out here from blkif.h by hand, with struct, so that they hold xenvbd.ring to account.
It always notifies, and looks at the ring on every event and every few milliseconds.
"""
from __future__ import annotations

import select
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from xenvbd.hv.evtchn import EventChannels
from xenvbd.hv.grant import GrantTable

READ, WRITE, BARRIER, FLUSH, DISCARD, INDIRECT = 0, 1, 2, 3, 5, 6
OKAY, ERROR, EOPNOTSUPP = 0, -1, -2


@dataclass(frozen=True)
class Abi:
    """Offsets of one ABI; the entry is the size of the largest request."""

    entry: int
    id: int
    sector: int
    body: int               # segments; nr_sectors of a discard
    grefs: int
    response: str


ABIS = {"x86_64-abi": Abi(112, 8, 16, 24, 28, "<QBxhxxxx"), "x86_32-abi": Abi(108, 4, 12, 20, 24, "<QBxh")}
ABIS["native"] = ABIS["x86_64-abi"]


@dataclass
class Request:
    """A request as the model reads it from the ring."""

    operation: int
    id: int
    sector: int
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    inner: int = 0          # of INDIRECT
    nr_sectors: int = 0


Answer = tuple[int, int, int]       # id, operation, status


class Model:
    """Model(hypervisor, domid, refs, port): serves a ring from a thread until stop().

    disk is its bytearray.  lie(answers) may change the answers of a pass; bend(sector, data) what a read returns."""

    def __init__(self, hypervisor: Any, domid: int, refs: Iterable[int], port: int, abi: str = "native",
                 disk: bytearray | None = None, index: int = 0) -> None:
        self.domid, self.abi = domid, ABIS[abi]
        self.disk = bytearray(2048 * 512) if disk is None else disk
        self.table = GrantTable(hypervisor)
        self.channels = EventChannels(hypervisor)
        self.pages = self.table.map(domid, tuple(refs))
        self.ring = memoryview(self.pages).cast("B")
        self.indices = self.ring[:16].cast("I")         # req_prod, req_event, rsp_prod, rsp_event
        self.port = self.channels.bind_interdomain(domid, port)
        self.entries = 1 << ((len(self.ring) - 64) // self.abi.entry).bit_length() - 1
        self.req_cons = self.rsp_prod = index
        self.seen: list[Request] = []
        self.lie: Callable[[list[Answer]], list[Answer]] = lambda answers: answers
        self.bend: Callable[[int, bytes], bytes] = lambda sector, data: data
        self.silent = False
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model")
        self._thread.start()

    def stop(self) -> None:
        """End the thread, give everything back; raise what went wrong in it."""
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.indices.release()
        self.ring.release()
        self.pages.unmap()
        self.channels.close()
        self.table.close()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self.channels.fileno(), select.POLLIN)
        try:
            while not self._stop.is_set():
                poll.poll(3)
                while (port := self.channels.pending()) is not None:
                    self.channels.unmask(port)
                if not self.silent:
                    self.serve()
        except BaseException as error:
            self.error = error

    def serve(self) -> None:
        """One pass: every request that is posted, then all the answers at once."""
        req_prod = self.indices[0]
        answers = []
        while self.req_cons != req_prod:
            answers.append(self._answer(self._take()))
        answers = self.lie(answers) if answers else answers
        for answer in answers:
            struct.pack_into(self.abi.response, self.ring, self._slot(self.rsp_prod), *answer)
            self.rsp_prod = self.rsp_prod + 1 & 0xFFFFFFFF
        if answers:
            self.indices[2] = self.rsp_prod     # one store: pack_into() would show a spinning frontend a zero first
            self.channels.notify(self.port)

    def _slot(self, index: int) -> int:
        return 64 + (index & self.entries - 1) * self.abi.entry

    def _take(self) -> Request:
        entry = bytes(self.ring[(at := self._slot(self.req_cons)):at + self.abi.entry])
        self.req_cons = self.req_cons + 1 & 0xFFFFFFFF
        r = Request(entry[0], *struct.unpack_from("<Q", entry, self.abi.id),
                    *struct.unpack_from("<Q", entry, self.abi.sector))
        if r.operation == DISCARD:
            r.nr_sectors, = struct.unpack_from("<Q", entry, self.abi.body)
        elif r.operation == INDIRECT:
            r.inner = entry[1]
            gref, = struct.unpack_from("<I", entry, self.abi.grefs)
            r.segments = self._segments(self.table.read(self.domid, gref), *struct.unpack_from("<H", entry, 2))
        else:
            r.segments = self._segments(entry[self.abi.body:], entry[1])
        self.seen.append(r)
        return r

    def _segments(self, data: bytes, count: int) -> list[tuple[int, int, int]]:
        return [struct.unpack_from("<IBBxx", data, 8 * i) for i in range(count)]

    def _answer(self, r: Request) -> Answer:
        operation = r.inner if r.operation == INDIRECT else r.operation
        if operation > DISCARD:
            return r.id, operation, EOPNOTSUPP
        total = r.nr_sectors or sum(last - first + 1 for _, first, last in r.segments)
        if (r.sector + total) * 512 > len(self.disk):
            return r.id, operation, ERROR
        if operation == DISCARD:
            self.disk[r.sector * 512:(r.sector + total) * 512] = bytes(total * 512)
        else:
            self._move(operation, r)
        return r.id, operation, OKAY

    def _move(self, operation: int, r: Request) -> None:
        at = r.sector
        for gref, first, last in r.segments:
            count = last - first + 1
            here = slice(at * 512, (at + count) * 512)
            if operation == READ:
                self.table.write(self.domid, gref, first * 512, self.bend(at, bytes(self.disk[here])))
            else:
                self.disk[here] = self.table.read(self.domid, gref, first * 512, count * 512)
            at += count

"""The reference blkfront: shakes hands as one of the personas, does I/O, and holds the backend to the protocol."""
from __future__ import annotations

import errno
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from xenvbd.errors import StoreError
from xenvbd.frontend.bus import LOST, Bus, HandshakeError, Note, State
from xenvbd.frontend.load import Load
from xenvbd.frontend.loads import Loads
from xenvbd.frontend.oracle import OracleError, RequestError
from xenvbd.frontend.persona import Facts, RingNodes, Wishes
from xenvbd.frontend.persona import persona as persona_named
from xenvbd.frontend.queue import FrontQueue
from xenvbd.frontend.result import Result
from xenvbd.frontend.shadow import Shadow
from xenvbd.store import Store

READ, WRITE, BARRIER, FLUSH, DISCARD = 0, 1, 2, 3, 5
DISCARD_SECURE = 1
SECTOR = 512


class Frontend:
    """Frontend(hypervisor, store, devid): the frontend of one vbd in the hypervisor's own domain.

    store: a Store of that domain; None: its own.  persona: linux, windows, freebsd, minios, uboot, ovmf, grub.
    ring_page_order, indirect (segments): at most so much; None as the persona by itself.  abi: native, x86_32-abi,
    x86_64-abi; queues: at most so many, which only linux asks for; protocol=False leaves the node out.  nodes: what
    to write instead of the persona's nodes, None to leave one out.  pages: data pages granted up front; fresh_grants:
    grants of each request's own.  ring_index: where the ring's indices start.  seed: of the pattern; blank: the
    disk reads zeros where it was never written.  timeout: seconds for each wait of
    the handshake, io_timeout for each request.  spin: wait without sleeping.  note(event, fields) hears of states and
    nodes.

    All sectors are of 512 bytes.  Nothing keeps a caller from reading past the end: the backend's answer is checked.
    """

    def __init__(self, hypervisor: Any, store: Store | None, devid: int, *, persona: str = "linux",
                 ring_page_order: int | None = None, indirect: int | None = None, abi: str = "native",
                 protocol: bool = True, persistent: bool = True, nodes: dict[str, str | None] | None = None,
                 queues: int = 1, pages: int = 256,
                 fresh_grants: bool = False, ring_index: int = 0, seed: int = 1, blank: bool = True,
                 timeout: float = 10.0, io_timeout: float = 30.0, spin: bool = False, note: Note | None = None) -> None:
        self.hypervisor = hypervisor
        self.devid = devid
        self.persona = persona_named(persona)
        self.wishes = Wishes(ring_page_order, indirect, persistent and not fresh_grants, queues, abi, protocol,
                             nodes or {})
        self.pages, self.fresh_grants, self.ring_index, self.spin = pages, fresh_grants, ring_index, spin
        self.seed, self.blank, self.io_timeout = seed, blank, io_timeout
        self._own_store = Store(hypervisor.store_path) if store is None else None
        self.bus = Bus(self._own_store or store, hypervisor.domid, devid, timeout=timeout, who=persona, note=note)
        self._facts: Facts | None = None
        self._queues: list[FrontQueue] = []
        self._shadow: Shadow | None = None

    # The handshake

    def connect(self) -> Facts:
        """Shake hands; what the backend says of its disk.  Raises HandshakeError, HandshakeTimeout."""
        self.bus.find()
        self._drop_queues()
        try:
            self._facts = self.persona.connect(self.bus, self._make_ring, self.wishes)
            self._fit(self._facts)
        except BaseException:
            self._drop_queues()
            raise
        return self._facts

    def _make_ring(self, order: int) -> RingNodes:
        queue = FrontQueue(self.hypervisor, self.bus.backend_id, order, self.wishes.abi, self.pages,
                           self.fresh_grants, self.ring_index)
        queue.handle, queue.spin = self.devid & 0xFFFF, self.spin
        queue.anonymous = self.persona.anonymous
        self._queues.append(queue)
        return RingNodes(queue.refs, queue.port)

    def _fit(self, facts: Facts) -> None:
        """Set the queues and the shadow for this disk; the shadow outlives a reconnection."""
        for queue in self._queues:
            queue.max_segments = facts.max_segments
            queue.number_shift, queue.segment_shift = facts.number_shift, facts.segment_shift
        if self._shadow is None:
            self._shadow = Shadow(facts.sectors, self.seed, self.blank)
        self._shadow.resize(facts.sectors)

    @property
    def facts(self) -> Facts:
        """What connect() returned."""
        if self._facts is None:
            raise HandshakeError(errno.ENOTCONN, "not connected", path=self.bus.frontend)
        return self._facts

    @property
    def queue(self) -> FrontQueue:
        """The first ring, for raw requests; raises HandshakeError while there is none."""
        return self.queues[0]

    @property
    def queues(self) -> list[FrontQueue]:
        """All rings; raises HandshakeError while there is none."""
        if not self._queues:
            raise HandshakeError(errno.ENOTCONN, "no ring", path=self.bus.frontend)
        return self._queues

    @property
    def shadow(self) -> Shadow:
        """What the disk ought to hold."""
        if self._shadow is None:
            raise HandshakeError(errno.ENOTCONN, "the disk has not been seen yet", path=self.bus.frontend)
        return self._shadow

    @property
    def sectors(self) -> int:
        return self.shadow.sectors

    def look(self) -> str:
        """Deliver watch events; what the backend is doing: connected, closing or gone; or storeless: the store does
        not answer, which is no reason to stop I/O.  A rewritten Connected makes the size be read again, as
        blkfront does."""
        try:
            return self._look()
        except StoreError as error:
            if error.errno not in LOST:
                raise
            self.bus.reconnect()
            return "storeless"

    def _look(self) -> str:
        if self.bus.dispatch():
            state = self.bus.backend_state
            if state is State.Connected:
                self.shadow.resize(self.persona.facts(self.bus, self.wishes, self._ring_nodes()).sectors)
        state = self.bus.backend_state
        if state is None:
            return "gone"
        return "closing" if state in (State.Closing, State.Closed) else "connected"

    def _ring_nodes(self) -> RingNodes:
        return RingNodes(self.queue.refs, self.queue.port)

    def close(self) -> None:
        """Wait for what is in flight, close as the persona does, give everything back.  Raises OracleError for
        answers that are missing or wrong, HandshakeError."""
        if self.look() == "storeless":
            self.bus.reconnect(self.bus.timeout)
        backend = self.bus.backend_state
        try:
            for queue in self._queues:
                queue.drain(self.io_timeout)
        finally:
            try:
                if self._queues and backend is not None:
                    closing = backend in (State.Closing, State.Closed)
                    (self.persona.answer_closing if closing else self.persona.close)(self.bus)
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Vanish without a word, as a guest that crashed: ring and pages are taken away, nodes stay."""
        self._drop_queues()
        self.bus.close()
        if self._own_store is not None:
            self._own_store.close()
            self._own_store = None

    def _drop_queues(self) -> None:
        while self._queues:
            self._queues.pop().close()

    def __enter__(self) -> Frontend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    # I/O, one request at a time

    def read(self, sector: int, count: int) -> bytes:
        """The bytes of count sectors, verified.  Raises RequestError, OracleError, Unanswered."""
        return b"".join(self._read(at, n) for at, n in self._pieces(sector, count))

    def _read(self, sector: int, count: int) -> bytes:
        status, data = self.queue.execute(READ, sector, count, timeout=self.io_timeout)
        if data is None:
            raise RequestError(READ, sector, count, status)
        wrong = self.shadow.mismatch(sector, data)
        if wrong:
            raise OracleError(errno.EILSEQ, wrong, facts={"request-sector": sector, "request-sectors": count})
        return data

    def write(self, sector: int, data: bytes) -> None:
        """Write whole sectors.  Raises RequestError (then old or new content may be read), OracleError."""
        for at, n in self._pieces(sector, len(data) // SECTOR):
            self._write(WRITE, at, data[(at - sector) * SECTOR:(at - sector + n) * SECTOR])

    def _write(self, operation: int, sector: int, data: bytes) -> None:
        count = len(data) // SECTOR
        self.shadow.unknown(sector, count)
        status, _ = self.queue.execute(operation, sector, count, data, timeout=self.io_timeout)
        self._expect_okay(operation, sector, count, status)
        if sector + count > self.sectors:
            raise OracleError(errno.EPROTO, f"a write of sectors {sector} to {sector + count - 1} was answered OKAY, "
                                            f"the disk ends at {self.sectors}")
        self.shadow.wrote(sector, data)

    def write_pattern(self, sector: int, count: int) -> int:
        """Write the shadow's next version of these sectors, which may be read from now on; the version."""
        version: int = self.shadow.sent(sector, count)
        for at, n in self._pieces(sector, count):
            data = self.shadow.bytes_of(at, n, version)
            status, _ = self.queue.execute(WRITE, at, n, data, timeout=self.io_timeout)
            self._expect_okay(WRITE, at, n, status)
            self.shadow.answered(at, n, version)
        return version

    def flush(self) -> None:
        """FLUSH_DISKCACHE without data."""
        self._plain(FLUSH, 0, 0)

    def flush_with(self, sector: int, data: bytes) -> None:
        """FLUSH_DISKCACHE that also writes data, of one request at most."""
        self._write(FLUSH, sector, data)

    def barrier(self, sector: int = 0, data: bytes = b"") -> None:
        """WRITE_BARRIER, with data or without."""
        if data:
            self._write(BARRIER, sector, data)
        else:
            self._plain(BARRIER, 0, 0)

    def discard(self, sector: int, count: int, *, secure: bool = False) -> None:
        """DISCARD; old data or zeros may be read after it."""
        self.shadow.discarded(sector, count)
        self._plain(DISCARD, sector, count, DISCARD_SECURE if secure else 0)

    def _plain(self, operation: int, sector: int, count: int, flag: int = 0) -> None:
        """A request that carries no data."""
        status, _ = self.queue.execute(operation, sector, count, flag=flag, timeout=self.io_timeout)
        self._expect_okay(operation, sector, count, status)

    def _expect_okay(self, operation: int, sector: int, count: int, status: int) -> None:
        if status != 0:
            raise RequestError(operation, sector, count, status)

    def _pieces(self, sector: int, count: int) -> Iterator[tuple[int, int]]:
        """The requests that so many sectors need."""
        limit = self.queue.max_segments * 8
        return ((at, min(limit, sector + count - at)) for at in range(sector, sector + count, limit))

    # Many at once

    def start(self, **options: Any) -> Load | Loads:
        """A Load (its options) on this disk, on each of its queues, to be driven by step()."""
        options = {"timeout": self.io_timeout, **options}
        if len(self.queues) == 1:
            return Load(self.queue, self.shadow, **options)
        return Loads(self.queues, self.shadow, **options)

    def load(self, **options: Any) -> Result:
        """Run a Load to its end.  Raises OracleError, Unanswered."""
        load = self.start(**options)
        while load.step(0.1):
            pass
        return result_of(load)

    def verify(self) -> Result:
        """Read the whole disk, check every sector, and settle those that a discard or a failed write left open."""
        return self.load(rw="verify", bs=min(self.queue.max_segments * 8, 128) * SECTOR, iodepth=16)


def result_of(load: Load | Loads) -> Result:
    """What a Load has done so far."""
    return Result(load.rw, load.snapshot, load.seconds, load.cpu_seconds, load.verified, load.depth)


"""The half of a device that deals with its data plane: connect, adopt, disconnect, and what the worker tells.

The other half, device.py, deals with xenstore; both do what xenbus.step() says."""
from __future__ import annotations

import abc
import errno
import functools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from xenvbd import journal, memory, stats, xenbus
from xenvbd.adoption import SCARCE, Adoption
from xenvbd.area import Areas
from xenvbd.disk import ENGINES
from xenvbd.errors import Error, HypervisorError, ProtocolError, StoreError, TargetError
from xenvbd.features import Agreement
from xenvbd.holding import Holding
from xenvbd.host import Host, WorkerProcess
from xenvbd.medium import Medium, refuse_shrunk
from xenvbd.properties import DiskFacts, Properties
from xenvbd.record import Record
from xenvbd.remarks import remarks
from xenvbd.stalls import Request, Stalls
from xenvbd.trace import event
from xenvbd.wire import close_all
from xenvbd.workers import WorkerGone
from xenvbd.xenbus import Plane, View

DISCONNECT_SECONDS = 1.0            # until a worker is told again that could not be
OPEN_SECONDS = 0.5                  # until an image is asked for again that somebody had who is about to go
ANOTHER_RING = "the guest has another ring than the one that was served: it is connected anew"
CONNECT_SECONDS = 1.0               # until a connection is tried again that failed


class Connection(abc.ABC):
    """serving: the engine that serves it; persistent: whether that keeps the guest's pages mapped; holding: its image;
    agreement: with the frontend, while there is a ring; error: why it does not work, as last reported."""

    host: Host
    domid: int
    key: str
    areas: Areas
    view: View
    properties: Properties | None
    facts: DiskFacts | None
    engine: str
    domain: str
    created: bool
    buffer_bytes: int
    stalls: Stalls
    holding: Holding
    _todo: deque[Callable[[], None]]

    def __init__(self) -> None:
        self.serving: str | None = None
        self.persistent = False
        self.landing = ""                               # what is waited for before it is offered, or connected
        self.agreement: Agreement | None = None
        self.error: OSError | None = None
        self.flush_failed = False
        self.image: tuple[int, int] | None = None       # (device, inode), as they stand in the journals
        self._past = stats.Snapshot.zero()
        self._worker: WorkerProcess | None = None       # which has the plane
        self._adoption: Adoption | None = None
        self._lost: Agreement | None = None             # of the ring that could not be served last

    @property
    @abc.abstractmethod
    def name(self) -> str: ...

    @abc.abstractmethod
    def take(self, happened: xenbus.Event) -> None:
        """Tell the state machine, and do what it says."""

    @abc.abstractmethod
    def _save(self) -> None: ...

    @abc.abstractmethod
    def _save_soon(self) -> None: ...

    @abc.abstractmethod
    def _say(self, level: int, message: str, *args: object) -> None: ...

    def worker_event(self, kind: str, detail: str) -> None:
        """What its data plane tells: a PlaneEvent's kind, and the rest of it as a text."""
        event("xen_block_plane_event", disk=self.name, kind=kind, detail=detail)
        if kind == "quarantined":
            self.take(xenbus.PlaneBroken("the frontend broke its ring, which is served no more until it closes"))
        else:
            self._say(logging.WARNING, "%s: %s", kind, detail)
        if kind == "flush-failed":
            self._note_failed_flush(told=True)
        self.host.changed(self)

    def worker_lost(self, worker: WorkerProcess) -> None:
        """A worker has died; if it had this disk's plane, that is gone, or another worker's to take over."""
        if self._worker is worker:
            self._worker = None
            message = f"the worker of domain {self.domid} (process {worker.pid}) died"
            self.take(xenbus.PlaneDied(message) if self.adoptable else xenbus.PlaneLost(message))

    def resume(self, done: Callable[[dict[str, Any] | OSError], None]) -> None:
        """Let its plane try again what it holds."""
        if self._worker is None:
            raise Error(errno.ENOTCONN, self.adopting or "the disk is not connected", disk=self.name)
        self._worker.call("resume", done, disk=self.key)

    @property
    def remarks(self) -> list[str]:
        """As remarks.remarks()."""
        return remarks(self.properties, self.facts)

    @property
    def adoptable(self) -> bool:
        """Whether another worker could take its ring over: what was in memory is gone with the one that served it."""
        target = self.properties.target if self.properties else None
        return (target is not None and target.scheme != "mem" and self.agreement is not None
                and self.host.runtime.has_journals(self.key, len(self.agreement.queues)))

    @property
    def adopting(self) -> str:
        """Why it pauses while another worker takes it over; empty if none does."""
        if self.view.plane not in (Plane.DIED, Plane.ADOPTING):
            return ""
        trouble = self._adoption.trouble if self._adoption else ""
        next_one = ("opens its image, and waits for the lock of what the old one had begun" if self._worker is None
                    else f"(process {self._worker.pid}) takes over its ring")
        return trouble or f"its worker died; the next {next_one}"

    def counters(self) -> stats.Snapshot:
        """What its queues have done since this manager knows it, its earlier connections included."""
        queues = len(self.agreement.queues) if self.agreement else 0
        files = [self.host.runtime.stats(self.key, queue) for queue in range(queues)]
        return self._past + stats.Snapshot.of_files(files)

    def _unanswered(self) -> list[Request]:
        """The requests that its worker has taken and not answered, but for a disk that says why it holds them."""
        if self.agreement is None or self.view.broken:
            return []
        try:
            found = [(queue, index) for queue in range(len(self.agreement.queues))
                     for index in journal.unanswered(self.host.runtime.journal(self.key, queue))]
            if found and self._worker is not None:
                self.host.loop.soon(self._worker.look)
            # Last: all counters cost ten times what the heads of the journals do, and an idle disk has no requests.
            return found if found and self.counters().stopped == "none" else []
        except OSError as exc:
            self._say(logging.WARNING, "whether it hangs cannot be told: %s", exc)
            return []

    def _stalled(self, message: str) -> None:
        event("xen_block_stall", disk=self.name, requests=self.stalls.requests, seconds=round(self.stalls.seconds, 3))
        self._say(logging.ERROR if self.stalls.requests else logging.WARNING, "%s", message)
        self.host.changed(self)

    def _connect(self, action: xenbus.Connect) -> None:
        try:
            if self.flush_failed:
                raise TargetError(errno.EIO, f"a flush of {self._properties().target} failed, and what was written "
                                  "before may be lost: detach the disk, and attach it again when its storage is "
                                  "checked")
            self.agreement = self.areas.agreement(self._properties())
        except StoreError as exc:
            if exc.errno == errno.EACCES:           # the guest's own doing, in a driver domain
                self._unconnected(exc)
            else:
                raise                               # the store's: to be tried again
        except OSError as exc:
            self._unconnected(exc)
        else:
            self.holding.open(self._properties(), self.engine, self._opened)

    def _opened(self, medium: Medium | OSError) -> None:
        """Hand ring and target over to the worker."""
        self.landing = ""
        if isinstance(medium, OSError):
            if medium.errno == errno.EINPROGRESS and self._is_waited_for():
                self._wait_to_open(medium)
            else:
                self._unconnected(medium)
            return
        agreement, self.image = self.agreement, medium.identity.number if medium.identity else None
        assert agreement is not None and self.facts is not None
        try:
            refuse_shrunk(self._properties(), self.facts, medium.facts)
            worker = self._worker = self.host.worker(self.domid)
            files = self._new_files(agreement)
        except OSError as exc:
            medium.close()
            self._unconnected(exc)
            return
        image = medium.take()
        self._trace_connect()
        record = self._record()
        worker.allow(self.key, memory.of_disk(record))
        worker.call("connect", self._connected, [*image, *files], disk=self.key, image=len(image),
                    agreement=agreement.to_json(), **record.orders())

    def _is_waited_for(self) -> bool:
        """Whether the frontend still waits to be connected with this ring."""
        view = self.view
        return view.frontend in (xenbus.INITIALISED, xenbus.CONNECTED) and not (view.stale or view.forced or view.gone)

    def _wait_to_open(self, exc: OSError) -> None:
        """Somebody has the image who is about to go: that is no failure, and the toolstack is not told of one."""
        self.landing = str(exc)
        self._say(logging.WARNING, "not connected yet: %s", exc)
        self.host.changed(self)
        self.host.loop.later(OPEN_SECONDS, self._open_again)

    def _open_again(self) -> None:
        if self.view.plane is Plane.STARTING and self.landing:
            self.holding.open(self._properties(), self.engine, self._opened)

    def _new_files(self, agreement: Agreement) -> list[int]:
        """Fresh journals and all else that the worker is given, and a record of it."""
        host = self.host
        files = host.descriptors(host.runtime.new_queues, self.key, self.domid, len(agreement.queues))
        try:
            self._save()
        except OSError:
            close_all(files)
            raise
        return files

    def _connected(self, result: dict[str, Any] | OSError) -> None:
        taken_over, self._adoption = self._adoption is not None, None
        if isinstance(result, WorkerGone) and self._worker is not None:
            self._worker.kill()         # worker_lost() follows: what it had begun is another's to take over
        elif isinstance(result, OSError):
            self._unconnected(result)
        else:
            self.error = None
            self._learn(result)
            self._say(logging.INFO, "%s: %s", "taken over" if taken_over else "connected", self._describe())
            if anew := bool(result.get("anew")):
                self._say(logging.WARNING, "the guest had begun its ring anew while nobody served it: it was connected "
                          "like a new one, and what was asked for on the old one is not done any more")
            self.holding.connected()
            self.take(xenbus.PlaneStarted(anew=anew))

    def _learn(self, told: dict[str, Any]) -> None:
        """What its worker, which is not believed further, says of the plane; one of xenvbd 0.1 does not say all."""
        engine, persistent = told.get("engine"), told.get("persistent")
        self.serving = engine if engine in ENGINES else self.engine
        agreed = self.agreement is not None and self.agreement.persistent
        direct = self.facts is None or self.facts.alignment > 1
        self.persistent = agreed and (not direct if persistent is None else persistent is True)

    def _adopt(self) -> None:
        """Have another worker go on with the ring of one that is gone."""
        def connecting(worker: WorkerProcess | None) -> None:
            self._worker = worker
            if worker is None:
                self.host.dirty(self)       # it failed: perhaps the guest has another ring by now

        self._trace_connect()
        self._adoption = Adoption(self.host, self.key, self._record(), self.holding, connecting, self._connected)
        self._adoption.start()

    def _has_another_ring(self) -> bool:
        """Whether the frontend's nodes, if they can be read, are of another ring than the one that is served, or that
        could not be."""
        ring = self.agreement or self._lost
        try:
            return ring is not None and not self.areas.agreement(self._properties()).same_rings(ring)
        except OSError as exc:
            if isinstance(exc, StoreError) and exc.errno != errno.EACCES:
                raise
            return False

    def _compare_rings(self) -> None:
        """Its state does not tell all of a frontend: it may have had others between two looks."""
        view = self.view
        served = view.plane not in (Plane.NONE, Plane.STOPPING) and self.agreement is not None and not view.stale
        lost = view.plane is Plane.NONE and (view.broken or view.failed)
        if view.frontend in (xenbus.INITIALISED, xenbus.CONNECTED) and (served or lost) and self._has_another_ring():
            self._say(logging.WARNING, ANOTHER_RING)
            self.take(xenbus.RingChanged())

    def _note_failed_flush(self, *, told: bool = False) -> None:
        """Keep that nothing may be answered any more, also to a frontend that comes back with another ring.  told: by
        the worker; else its journals are looked at."""
        queues = range(len(self.agreement.queues) if self.agreement else 0)
        try:
            failed = told or any(journal.is_failed(self.host.runtime.journal(self.key, queue)) for queue in queues)
        except OSError as exc:
            self._say(logging.ERROR, "whether a flush of it failed cannot be told: %s", exc)
            return
        if failed and not self.flush_failed:
            self.flush_failed = True
            self._save_soon()

    def _unconnected(self, exc: OSError) -> None:
        if self._is_lost(exc):
            self._todo.appendleft(functools.partial(self._connect, xenbus.Connect()))
            return
        self.holding.rests()
        if self.view.plane is Plane.ADOPTING:
            self._note_failed_flush()
        else:
            self.host.runtime.remove_queues(self.key)       # else they are there for a version that can read them
        self._lost = self.agreement
        self.agreement, self.error, self._worker = None, exc, None
        self.take(xenbus.PlaneFailed(str(exc)))
        if self.view.failed and self._may_pass(exc):
            self.host.loop.later(CONNECT_SECONDS, self._try_again)

    def _may_pass(self, exc: OSError) -> bool:
        """Whether what a connection failed for may be over by itself: anything but what the guest asked for."""
        if isinstance(exc, HypervisorError):
            return exc.errno in SCARCE
        return not (self.flush_failed or isinstance(exc, ProtocolError))

    def _try_again(self) -> None:
        """As long as the frontend waits.  What still hangs of the last attempt is waited for first (helpers.py)."""
        if self.view.failed:
            self.take(xenbus.TryAgain())

    def _disconnect(self, action: xenbus.Disconnect) -> None:
        event("xen_block_disconnect", disk=self.name, reason=self.view.backend.label)
        if self._adoption is not None:
            self._adoption.cancel()
            if self._worker is None:
                self._adoption = None
        if self._worker is None:
            self.take(xenbus.PlaneStopped())
        else:
            self._ask_to_disconnect()

    def _ask_to_disconnect(self) -> None:
        if self._worker is not None and self.view.plane is Plane.STOPPING:
            abandon = self.view.forced or self.view.frontend is None
            self._worker.call("disconnect", self._disconnected, disk=self.key, abandon=abandon)

    def _disconnected(self, result: dict[str, Any] | OSError) -> None:
        if isinstance(result, OSError) and result.errno not in (errno.ENOENT, errno.EPIPE):
            # It lives and was not reached: it still has the ring and the image.
            self._say(logging.WARNING, "its worker cannot be told to let go of it yet: %s", result)
            self.host.loop.later(DISCONNECT_SECONDS, self._ask_to_disconnect)
            return
        if isinstance(result, WorkerGone) and self._worker is not None:
            self._worker.kill()
        self._note_failed_flush()
        try:
            self._past = self.counters().settled()
        except OSError as exc:
            self._say(logging.WARNING, "what it did since it was connected is not counted: %s", exc)
        if self._worker is not None:
            self._worker.allow(self.key, 0)
        self.agreement = self._worker = None
        if not isinstance(result, OSError) or result.errno == errno.ENOENT:
            self.holding.rests()
            self.host.runtime.remove_queues(self.key)
            self._save_soon()
            self._say(logging.INFO, "disconnected")
            self.take(xenbus.PlaneStopped())
        else:
            self.take(xenbus.PlaneLost(str(result)))

    def _properties(self) -> Properties:
        assert self.properties is not None      # nothing is published without them
        return self.properties

    def _is_lost(self, exc: OSError) -> bool:
        """Whether this is no failure of the device, but the store has gone: to be tried again when it is back."""
        return isinstance(exc, StoreError) and not self.host.store.connected

    def _watch_stalls(self) -> None:
        if self.view.plane in (Plane.RUNNING, Plane.STOPPING):
            self.stalls.start()
        else:
            self.stalls.stop()

    def _record(self) -> Record:
        assert self.facts is not None           # known since it was published
        return Record(self.areas.kind, self.domain, self.name, self.created, self._properties(), self.facts,
                      self.engine, self.buffer_bytes, self.agreement, self.flush_failed, self.holding.identity,
                      self.image)

    def _trace_connect(self) -> None:
        agreement = self.agreement
        assert agreement is not None
        event("xen_block_connect", disk=self.name, protocol=agreement.abi, queues=len(agreement.queues),
              ring_page_order=agreement.ring_page_order,
              event_channels=[queue.event_channel for queue in agreement.queues])

    def _describe(self) -> str:
        agreement = self.agreement
        assert agreement is not None
        rings = f"{len(agreement.queues)} x {1 << agreement.ring_page_order} ring pages"
        return f"{agreement.abi}, {rings}, engine {self.serving}"

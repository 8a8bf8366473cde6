"""The data plane of one disk, as the seed calls it: create, start, stop, destroy."""
from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from xenvbd.dataplane.device import Device
from xenvbd.dataplane.iothread import IoThread
from xenvbd.dataplane.queue import ABANDON, HAND_OVER, RESUME, STOP, Queue
from xenvbd.dataplane.settings import Settings
from xenvbd.dataplane.thread import run
from xenvbd.disk import rings
from xenvbd.errors import Error

if TYPE_CHECKING:
    from xenvbd.disk.disk import Disk
    from xenvbd.hv.ops import Hypervisor


class QueueAgreement(Protocol):
    """One ring, as it was negotiated."""

    @property
    def ring_refs(self) -> tuple[int, ...]: ...

    @property
    def event_channel(self) -> int: ...


class Agreement(Protocol):
    """What frontend and backend agreed on: features.Agreement, of which this is what the data plane looks at."""

    @property
    def domid(self) -> int: ...

    @property
    def devid(self) -> int: ...

    @property
    def abi(self) -> str: ...

    @property
    def sector_unit(self) -> int: ...

    @property
    def persistent(self) -> bool: ...

    @property
    def queues(self) -> Sequence[QueueAgreement]: ...


class PlaneEvent(NamedTuple):
    """Something a person or the manager should know.

    kind: "quarantined" (the ring's producer overran it), "flush-failed" (nothing is answered any more), "no-space",
    "resumed", "io-error" (answered with an error), "io-stop" (kept, as rerror or werror says), "stopped" (every thread
    has ended).  detail: for the errors of reads and writes the request's sector."""

    kind: str
    queue: int
    errno: int
    detail: int


class DataPlane:
    """Serves one Disk to one frontend.

    Its methods are for one thread.  States: "stopped" (also at first), "running", "stopping", "destroyed"."""

    def __init__(self, hypervisor: Hypervisor, disk: Disk, *, name: str = "", settings: Settings | None = None,
                 image: tuple[int, int] = (0, 0)) -> None:
        """name: for messages.  image: (dev, ino) of what is served, for the journal.  disk: stays its owner's."""
        self.name = name
        self.settings = settings or Settings()
        self.lost = 0                           # events that nobody took in time
        self._hypervisor = hypervisor
        self._disk = disk
        self._image = image
        self._queues: list[Queue] = []
        self._threads: list[IoThread] = []
        self._state = "stopped"
        self._events_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def state(self) -> str:
        return self._state

    @property
    def persistent(self) -> bool:
        """Whether pages of the guest stay mapped: that was agreed on, and the disk does not do direct I/O."""
        return any(queue.persistent for queue in self._queues)

    @property
    def events_fd(self) -> int:
        """Readable when events() has something to say."""
        return self._events_fd

    @property
    def anew(self) -> list[int]:
        """The queues that were to be adopted, and whose rings had been begun anew since: they were connected."""
        return [queue.number for queue in self._queues if queue.anew]

    def start(self, agreement: Agreement, journals: Sequence[int] | None = None,
              stats: Sequence[int] | None = None, channels: Sequence[int] | None = None, *,
              adopt: bool = False) -> None:
        """Map the rings, bind the event channels, serve: one thread a queue.

        journals, stats: a file's descriptor for each queue, which stays the caller's; None: private memory.
        channels: what evtchn.offer() gave for each queue, which stays the caller's too; None: open them here.
        adopt: the rings are in use, and the journals are those of the worker that served them, which is dead or
        has handed over; the disk's lock was waited for.  A ring that was begun anew since is connected as any other;
        see anew.  ProtocolError (ESTALE, EPROTO, EIO): the journals are of others, damaged, or prove nothing.
        Raises HypervisorError, ProtocolError or OSError with everything undone."""
        self._expect("stopped")
        if adopt and not journals:
            raise Error(errno.EINVAL, "without journals no ring can be adopted", disk=self.name or None)
        device = Device()
        try:
            for number in range(len(agreement.queues)):
                queue = Queue.__new__(Queue)
                self._queues.append(queue)      # first, so that what a failure left is closed
                queue.__init__(number, self._hypervisor, self._disk, device, agreement,  # type: ignore[misc]
                               self.settings, self._image, journals[number] if journals else None,
                               stats[number] if stats else None, channels[number] if channels else None,
                               self._events_fd, adopt)
            self._start_threads()
        except BaseException:
            self._end_threads()
            self._close_queues()
            raise
        self._state = "running"

    def _start_threads(self) -> None:
        for queue in self._queues:
            try:
                kind = rings.kind_of(queue.entries + 1) if self._disk.engine == "uring" else -1
                self._threads.append(IoThread(functools.partial(run, queue), kind))
            except OSError as exc:
                number = exc.errno or errno.EIO
                raise Error(number, f"queue {queue.number} cannot use {self._disk.target}: {os.strerror(number)}",
                            disk=self.name or None) from exc

    def stop_begin(self, *, abandon: bool = False, hand_over: bool = False) -> None:
        """Stop consuming; answer what was consumed; let go of the rings.  The event "stopped" tells when that is done.

        abandon: the frontend is gone or must wait no longer: let go of the rings at once, answer nothing more.
        hand_over: answer what the storage is doing, leave all else in the journals for a later start(adopt=True).
        Buffers stay until the storage is done with them in every case.  In no state does this wait."""
        if self._state in ("running", "stopping"):
            for queue in self._queues:
                queue.order(STOP | (ABANDON if abandon else 0) | (HAND_OVER if hand_over else 0))
            self._state = "stopping"

    def stop(self, timeout: float | None = None) -> bool:
        """stop_begin(), unless that was called, and wait as long as the storage takes.  False: not stopped yet within
        timeout seconds."""
        if self._state == "running":
            self.stop_begin()           # called again it would turn a hand-over into an ordinary stop
        for thread in self._threads:
            if not thread.join(timeout):
                return False
        self._finish()
        return True

    def resume(self) -> None:
        """Try again now what is kept: also what there was no room for, which is tried each second anyhow."""
        if self._state == "running":
            for queue in self._queues:
                queue.order(RESUME)

    def events(self) -> list[PlaneEvent]:
        """What happened since the last call; never waits.  After "stopped" the plane can be started again."""
        if self._state == "destroyed":
            return []
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._events_fd)
        found = self._take()
        if any(event.kind == "stopped" for event in found):
            self._finish()
        return found

    def statistics(self) -> list[bytes]:
        """Each queue's struct xenvbd_stats (stats.h) as it is now."""
        return [queue.statistics() for queue in self._queues]

    def poll_windows(self) -> list[int]:
        """How long each queue looks for requests before it sleeps, as things are: nanoseconds."""
        return [queue.poll_window for queue in self._queues]

    def destroy(self) -> None:
        """Stop, and give everything back; the disk stays open.  Doing it again does nothing."""
        if self._state != "destroyed":
            self.stop()
            self._state = "destroyed"
            os.close(self._events_fd)

    def _take(self) -> list[PlaneEvent]:
        found, lost = [], 0
        for queue in self._queues:
            events, dropped = queue.take_events()
            found += [PlaneEvent(kind, queue.number, error, detail) for kind, error, detail in events]
            lost += dropped
        self.lost = lost
        return found

    def _end_threads(self) -> None:
        for queue in self._queues:
            if queue.control >= 0:
                queue.order(STOP | ABANDON)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _finish(self) -> None:
        """Every thread has ended, or is about to."""
        if self._state == "stopping":
            for thread in self._threads:
                thread.join()
            self._threads.clear()
            self._close_queues()
            self._state = "stopped"

    def _close_queues(self) -> None:
        for queue in self._queues:
            queue.close()
        self._queues.clear()

    def _expect(self, state: str) -> None:
        if self._state != state:
            raise Error(errno.EINVAL, f"the data plane is {self._state}, not {state}", disk=self.name or None)

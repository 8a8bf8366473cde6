"""A new worker for a ring whose worker died or handed over: the image's lock first, then journal and ring.

The lock keeps the dead worker's last writes from landing on top of the new one's, so it is waited for as long as it
takes.  Final is only what a worker says of the ring itself, and that the hypervisor refuses ring or port time and
again; all else is tried again: what there was no memory or no descriptor for may be there in a second, an image that
has shrunk may be made longer, and the guest waits for it.
"""
from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from typing import Any

from xenvbd import domains, memory
from xenvbd.errors import HypervisorError, ProtocolError
from xenvbd.holding import Holding
from xenvbd.host import Host, WorkerProcess
from xenvbd.loop import Timer
from xenvbd.medium import Medium, refuse_shrunk
from xenvbd.record import Record
from xenvbd.trace import Limiter
from xenvbd.workers import WorkerGone

RETRY_SECONDS = 1.0
RING_TRIES = 10                     # until a ring that cannot be mapped, or its port bound, has gone
FOREVER = 1e9                       # seconds
# What there is not enough of at the moment, when a ring is mapped.
SCARCE = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EAGAIN, errno.EBUSY, errno.EINTR})

log = logging.getLogger("xenvbd")


class Adoption:
    """One ring to be taken over.  trouble: why that takes long; empty if it does not."""

    def __init__(self, host: Host, key: str, record: Record, holding: Holding,
                 connecting: Callable[[WorkerProcess | None], None],
                 done: Callable[[dict[str, Any] | OSError], None]) -> None:
        """holding: of the disk's image; connecting: told the worker that is asked, and None when another is to be;
        done: told its answer, if that is final.  Nothing is called before start()."""
        assert record.agreement is not None
        self.trouble = ""
        self._host, self._key, self._record, self._queues = host, key, record, len(record.agreement.queues)
        self._holding = holding
        self._connecting, self._done = connecting, done
        self._cancelled = threading.Event()
        self._refusals = 0                  # of the ring, by the hypervisor
        self._give_up: Callable[[], None] = lambda: None
        self._timer: Timer | None = None
        self._limiter = Limiter()

    def start(self) -> None:
        """Start a worker, and meanwhile wait for the lock."""
        record, host = self._record, self._host
        try:
            host.worker(record.properties.domid)
            wanted = self._holding.wanted(record.properties, record.engine)
        except OSError as exc:
            self._again(exc)
            return
        self._give_up = host.helpers.run(
            f"taking over {record.properties.target}",
            lambda: Medium.fenced(wanted, self._name, self._cancelled, self._waits),
            self._opened, seconds=FOREVER, dispose=Medium.close, owner=self._key,
            lane="taking over")

    def _name(self) -> str:
        """The disk's, now.  Also in the helper thread."""
        domid, devid = self._record.properties.domid, self._record.properties.vdev.number
        return domains.disk_name(self._host.name_of(domid, self._record.domain), devid)

    def _waits(self, trouble: str) -> None:
        """In the helper thread."""
        self.trouble = trouble

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._cancelled.set()
        self._give_up()
        if self._timer is not None:
            self._timer.cancel()

    def _opened(self, medium: Medium | OSError) -> None:
        self.trouble = ""
        if isinstance(medium, OSError):
            self._again(self._holding.explained(medium))
            return
        try:
            self._connect(medium)
        except FileNotFoundError as exc:
            medium.close()
            self._done(exc)         # no journal
        except OSError as exc:
            medium.close()
            self._again(exc)

    def _connect(self, medium: Medium) -> None:
        record = self._record
        if medium.identity is not None:
            self._holding.has(medium.identity)
        refuse_shrunk(record.properties, record.facts, medium.facts)
        assert record.agreement is not None
        host, domid = self._host, record.properties.domid
        worker = host.worker(domid)
        files = host.descriptors(host.runtime.open_queues, self._key, domid, self._queues)
        image = medium.take()
        self._connecting(worker)
        worker.allow(self._key, memory.of_disk(record))
        worker.call("connect", self._answered, [*image, *files], disk=self._key, image=len(image), adopt=True,
                    agreement=record.agreement.to_json(), **record.orders())

    def _answered(self, result: dict[str, Any] | OSError) -> None:
        if isinstance(result, HypervisorError) and result.errno not in SCARCE:
            self._refusals += 1
            if self._refusals == RING_TRIES:
                result = _gone(result)
        final = isinstance(result, ProtocolError | WorkerGone) or self._cancelled.is_set()
        if isinstance(result, OSError) and not final:
            self._connecting(None)
            self._again(result)
        else:
            self._done(result)

    def _again(self, exc: OSError) -> None:
        self.trouble = str(exc)
        self._limiter.log(log, logging.ERROR, "%s: cannot be taken over yet: %s", self._name(), exc)
        self._timer = self._host.loop.later(RETRY_SECONDS, self.start)


def _gone(refusal: HypervisorError) -> ProtocolError:
    return ProtocolError(refusal.errno or errno.EINVAL, "the guest has let go of its ring, and nobody can take it over "
                         f"({refusal.message}): it is served again when its driver begins again")

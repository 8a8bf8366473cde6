"""The surroundings of a device: what all devices of a manager share, and what they ask of a worker."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from xenvbd import stats
from xenvbd.disk.holders import DisksOf, nobody
from xenvbd.helpers import Helpers
from xenvbd.images import Images
from xenvbd.loop import Loop
from xenvbd.medium import Policy
from xenvbd.properties import Properties
from xenvbd.runtime import Runtime
from xenvbd.store import Store
from xenvbd.wire import close_all


class WorkerProcess(Protocol):
    """What a device asks of its domain's worker; see workers.Worker."""

    pid: int
    told: dict[str, dict[str, Any]]

    def kill(self) -> None:
        """As workers.Worker.kill."""

    def allow(self, disk: str, size: int) -> None:
        """As memory.Allowance.allow."""

    def look(self) -> None:
        """As workers.Worker.look."""

    def call(self, verb: str, done: Callable[[dict[str, Any] | OSError], None], fds: list[int] = ...,
             **params: Any) -> None:
        """As workers.Worker.call."""


class Options(Protocol):
    """How the configuration wants a disk to be served; see config.DiskOptions."""

    @property
    def engine(self) -> str: ...

    @property
    def buffer_bytes(self) -> int: ...

    @property
    def stall_alarm(self) -> float | None: ...

    def applied(self, props: Properties, /) -> Properties: ...


@dataclass
class Host:
    """What all devices of a manager share.

    worker: the worker of a domain, started if need be; channels: event-channel handles for it to be given, as
    evtchn.offer() makes them; options: of a disk that goes by these names; name_of: as names.Names.of(); images: which
    vbd has which; disk_name: how a vbd is called, by its key; serves: whether an area (kind, domid, devid) is a vbd of
    ours, and not another backend's; disks_of: see disk.holders, for helper threads.  What is called with a device:
    dirty when it is to be looked at, changed when something has happened to it, destroyed when it may be forgotten."""

    loop: Loop
    store: Store
    runtime: Runtime
    helpers: Helpers
    policy: Policy
    worker: Callable[[int], WorkerProcess]
    channels: Callable[[int, int], list[int]]
    options: Callable[..., Options]
    name_of: Callable[[int, str], str] = lambda domid, handle: str(domid)
    backend_domid: int = 0
    images: Images = field(default_factory=Images)
    disk_name: Callable[[str], str] = str
    disks_of: DisksOf = nobody
    serves: Callable[[tuple[str, int, int]], bool] = lambda area: True
    dirty: Callable[[Any], None] = lambda device: None
    changed: Callable[[Any], None] = lambda device: None
    destroyed: Callable[[Any], None] = lambda device: None

    def descriptors(self, make: Callable[[str, int, int], list[int]], key: str, domid: int, queues: int) -> list[int]:
        """What a worker is given with a disk's rings: journals and counters, which make() gives (new_queues() or
        open_queues() of the runtime directory), and event-channel handles.  Raises OSError, and nothing stays open."""
        files = make(key, queues, stats.SIZE)
        try:
            return files + self.channels(domid, queues)
        except OSError:
            close_all(files)
            raise

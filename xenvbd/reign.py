"""Which daemon serves a kind of disk: one for each xenstore, whatever runtime directories there are.

It stands in xenstore, in the backend's own domain, for that is what two daemons would fight over: a simulated machine
has its own, and so has a driver domain.  A node says who it is and where, and holds as long as that process lives:
daemons know each other by the process and its start, or, from different containers, by the lock of the runtime
directory, which goes with the process.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xenvbd import domains
from xenvbd.errors import ClaimError
from xenvbd.runtime import LOCK
from xenvbd.store import Store, Transaction


@dataclass(frozen=True)
class Holder:
    """A daemon: its process, when that was started (proc(5), clock ticks after the boot), its runtime directory."""

    pid: int
    started: int
    place: str

    @classmethod
    def me(cls, place: str) -> Holder:
        return cls(os.getpid(), _started(os.getpid()) or 0, os.path.abspath(place))

    @classmethod
    def parse(cls, value: bytes) -> Holder | None:
        """What to_bytes() wrote; None if it is something else."""
        pid, started, place = [*value.split(b" ", 2), b"", b""][:3]
        if not (pid.isdigit() and started.isdigit() and place.startswith(b"/")):
            return None
        return cls(int(pid), int(started), os.fsdecode(place))

    def to_bytes(self) -> bytes:
        return b"%d %d %s" % (self.pid, self.started, os.fsencode(self.place))

    @property
    def alive(self) -> bool:
        return _started(self.pid) == self.started or _is_locked(Path(self.place) / LOCK)


class Reign:
    """Of the manager with this runtime directory, over kinds of disks whose backend is backend_domid."""

    def __init__(self, store: Store, backend_domid: int, place: str) -> None:
        self._store, self._me = store, Holder.me(place)
        self._root = f"{domains.path(backend_domid)}/data/xenvbd"
        self._kinds: tuple[str, ...] = ()

    def take(self, kinds: Iterable[str]) -> None:
        """Be the one daemon for these kinds, and no more for others.  ClaimError, and nothing has changed, if another
        is one's."""
        wanted = tuple(kinds)

        def write(tx: Transaction) -> None:
            for kind in wanted:
                self._refuse(tx.get(self._node(kind)), kind)
                tx.write(self._node(kind), self._me.to_bytes())
            for kind in set(self._kinds) - set(wanted):
                tx.rm(self._node(kind))

        self._store.transaction(write)
        self._kinds = wanted

    def renew(self) -> None:
        """xenstored has lost its tree."""
        self.take(self._kinds)

    def _node(self, kind: str) -> str:
        return f"{self._root}/{kind}"

    def _refuse(self, value: bytes | None, kind: str) -> None:
        holder = Holder.parse(value or b"")
        if holder is None or (holder.pid, holder.started) == (self._me.pid, self._me.started) or not holder.alive:
            return
        if holder.place == self._me.place:      # its lock is ours now, so whoever wrote this has gone
            return
        raise ClaimError(errno.EBUSY, f"another xenvbd (process {holder.pid}, runtime directory {holder.place}) serves "
                         f"backend/{kind}; stop it, or let one of the two claim other kinds", path=self._node(kind))


def _started(pid: int) -> int | None:
    """When a process was started; None if there is none, or it has ended and nobody has asked how."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    return None


def _is_locked(path: Path) -> bool:
    """Whether somebody holds the lock, as Runtime.lock() does; False where that cannot be seen."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno == errno.EWOULDBLOCK
    finally:
        os.close(fd)
    return False

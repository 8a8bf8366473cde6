"""The runtime directory (/run/xenvbd): what must outlive the manager but not the host.

    manager.lock               held by the one manager that serves here
    control.sock               the control socket
    worker-DOMID.sock          where a later manager finds a worker
    KIND-DOMID-DEVID.json      what the manager must know again of a device that it serves
    KIND-DOMID-DEVID.fence     locked by who does the device's I/O (disk/fencefile.py)
    KIND-DOMID-DEVID.qN.journal, .qN.stats    the in-flight journal and the counters of a queue
"""
from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xenvbd.errors import ClaimError, Error
from xenvbd.wire import close_all

LOCK = "manager.lock"

log = logging.getLogger("xenvbd")
_WORKER = re.compile(r"worker-(\d+)\.sock")
_KEY = re.compile(r"[a-z0-9]+-(\d{1,5})-\d{1,10}", re.ASCII)


class Runtime:
    """A private directory on tmpfs; disk names in it are keys, see Runtime.key()."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Make the directory, mode 0700.  Raises Error if it is somebody else's."""
        self.path = Path(path)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.path.stat()
        if status.st_uid not in (0, os.geteuid()):
            raise Error(errno.EPERM, f"the runtime directory belongs to user {status.st_uid}", path=str(path))
        if stat.S_IMODE(status.st_mode) & 0o077:
            self.path.chmod(0o700)

    @staticmethod
    def key(kind: str, domid: int, devid: int) -> str:
        return f"{kind}-{domid}-{devid}"

    @staticmethod
    def domid(key: str) -> int | None:
        """Whose disk a key names; None if it is no key."""
        match = _KEY.fullmatch(key)
        return int(match[1]) if match else None

    @property
    def control(self) -> str:
        return str(self.path / "control.sock")

    def worker(self, domid: int) -> str:
        return str(self.path / f"worker-{domid}.sock")

    def workers(self) -> list[int]:
        """Domains whose workers have left a socket here."""
        matches = (_WORKER.fullmatch(name) for name in os.listdir(self.path))
        return sorted(int(match[1]) for match in matches if match)

    def stats(self, key: str, queue: int) -> str:
        return str(self.path / f"{key}.q{queue}.stats")

    def journal(self, key: str, queue: int) -> str:
        return str(self.path / f"{key}.q{queue}.journal")

    def fence(self, key: str) -> str:
        return str(self.path / f"{key}.fence")

    def lock(self) -> int:
        """Be the one manager here until the descriptor returned is closed; ClaimError if another is."""
        fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise ClaimError(errno.EBUSY, f"another xenvbd serves here (process {holder})",
                             path=str(self.path)) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return fd

    def new_file(self, path: str, size: int = 0) -> int:
        """A descriptor of a fresh file of so many zero bytes; an old one of that name is forgotten."""
        _unlink(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
        except OSError:
            os.close(fd)
            raise
        return fd

    def new_queues(self, key: str, queues: int, stats_size: int) -> list[int]:
        """Descriptors of fresh files for a disk: a journal, still empty, for each queue, then the counters of each."""
        self.remove_queues(key)
        files: list[int] = []
        try:
            for queue in range(queues):
                files.append(self.new_file(self.journal(key, queue)))
            for queue in range(queues):
                files.append(self.new_file(self.stats(key, queue), stats_size))
        except OSError:
            close_all(files)
            raise
        return files

    def open_queues(self, key: str, queues: int, stats_size: int) -> list[int]:
        """As new_queues(), for a disk whose rings are in use: the journals that there are, counters that go on.
        FileNotFoundError if there are none."""
        files: list[int] = []
        try:
            for queue in range(queues):
                files.append(os.open(self.journal(key, queue), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
            for queue in range(queues):
                path = self.stats(key, queue)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                files.append(os.open(path, flags, 0o600))
                os.ftruncate(files[-1], stats_size)
        except OSError:
            close_all(files)
            raise
        return files

    def has_journals(self, key: str, queues: int) -> bool:
        """Whether every queue of a disk has one."""
        return queues > 0 and all(os.path.exists(self.journal(key, queue)) for queue in range(queues))

    def remove_queues(self, key: str) -> None:
        """Forget journals and counters of a disk."""
        for path in self.path.glob(f"{key}.q*.*"):
            discard(path)

    def save(self, key: str, record: dict[str, Any]) -> None:
        """Keep what must be known of a disk; replaces what was kept, in one step."""
        path = self.path / f"{key}.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(record))
        new.replace(path)

    def forget(self, key: str) -> None:
        """Nothing of the disk remains here."""
        self.remove_queues(key)
        discard(self.path / f"{key}.json")
        discard(self.path / f"{key}.new")
        _discard_unlocked(self.fence(key))

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every disk's key and what was kept of it; nothing, if it cannot be read."""
        for path in sorted(self.path.glob("*.json")):
            try:
                fields = json.loads(path.read_text())
            except ValueError:
                fields = {}
            yield path.stem, fields if isinstance(fields, dict) else {}


def discard(path: str | os.PathLike[str]) -> None:
    """Remove a file that nobody needs; one that stays harms nobody: whoever needs its name replaces it, and whoever
    connects to a socket is refused, as by one that is missing."""
    try:
        _unlink(path)
    except OSError as exc:
        log.warning("%s cannot be removed: %s", path, exc.strerror)


def _discard_unlocked(path: str) -> None:
    """Remove a fence file, unless what holds it has not ended: the next device of that name is to wait for it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return                          # there is none
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
        discard(path)
    except OSError:
        log.info("%s stays until what holds it has ended", path)
    finally:
        os.close(fd)


def _unlink(path: str | os.PathLike[str]) -> None:
    Path(path).unlink(missing_ok=True)

"""A directory that a run has for itself, locked as long as it lives; what killed runs have left is removed by the next.

The lock is the kernel's and ends with the process, however that ends: a directory that nobody locks is left over."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from xenvbd.wire import peer

LOCK = ".lock"
END_SECONDS = 5.0                   # for processes that were killed


@contextlib.contextmanager
def own(prefix: str, parent: str | None = None) -> Iterator[Path]:
    """A new directory below parent (default: where temporary files go); it goes at the end.  First those of killed runs
    go, with what still works in them."""
    parent = parent or tempfile.gettempdir()
    sweep(prefix, parent)
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
        if (lock := _lock(directory, os.O_CREAT)) is not None:
            break                   # else another run has taken it for left over, before it was locked
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def sweep(prefix: str, parent: str) -> None:
    """Remove the directories of our own user that a killed run has left."""
    for directory in Path(parent).glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):        # another run sweeps too
            status = directory.lstat()
            if status.st_uid == os.geteuid() and (lock := _lock(directory)) is not None:
                try:
                    _end(directory)
                    shutil.rmtree(directory, ignore_errors=True)
                finally:
                    os.close(lock)


def _lock(directory: Path, flags: int = 0) -> int | None:
    """The directory's lock; None if it is taken, or has none."""
    try:
        fd = os.open(directory / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    except OSError as exc:
        if flags and exc.errno != errno.ENOENT:
            raise
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _end(directory: Path) -> None:
    """Kill the processes of a simulated machine in this directory, and wait for their end."""
    ended = time.monotonic() + END_SECONDS
    killed = [process for pid in {*_named(directory), *_listening(directory)}
              if (process := _kill(pid, directory)) is not None]
    for process in killed:
        select.select([process], [], [], max(0.0, ended - time.monotonic()))
        os.close(process)


def _kill(pid: int, directory: Path) -> int | None:
    """A descriptor of the process, which was sent SIGKILL; None if it is not one of the machine's any more."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0].startswith(b"xenvbd-worker") or _is_named(words, directory):
            signal.pidfd_send_signal(process, signal.SIGKILL)
            return process
    os.close(process)
    return None


def _named(directory: Path) -> Iterator[int]:
    """Processes of ours that were started with this directory."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _is_named((entry / "cmdline").read_bytes().split(b"\0"), directory):
                yield int(entry.name)


def _is_named(words: list[bytes], directory: Path) -> bool:
    where = os.fsencode(directory)
    python = any(flag == b"-m" and module.startswith(b"xenvbd.") for flag, module in itertools.pairwise(words))
    return python and any(word in (where, b"sim:" + where) for word in words)


def _listening(directory: Path) -> Iterator[int]:
    """Workers, which have another title and are found by their sockets."""
    for path in directory.glob("run/worker-*.sock"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.setblocking(False)
            sock.connect(str(path))
            yield peer(sock)[0]

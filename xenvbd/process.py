"""The processes of workers as the host sees them: started, found by their sockets, watched, reaped."""
from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A worker process that was started, and our end of its connection."""

    sock: socket.socket
    child: subprocess.Popen[bytes]

    def end(self) -> None:
        self.sock.close()
        self.child.kill()
        self.child.wait()


def is_zombie(pid: int) -> bool:
    """Whether a process' first thread has ended, and not all others: else its pidfd would say so."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return False


def reap(pid: int) -> int | None:
    """The exit status of a process that an earlier life of ours may have started; None if it was somebody else."""
    with contextlib.suppress(ChildProcessError):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def environment() -> dict[str, str]:
    """Ours, with this very package first in the path: a worker is of its manager's version."""
    package = str(Path(__file__).resolve().parent.parent)
    path = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}

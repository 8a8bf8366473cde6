"""Descriptors that outlive their manager, so that an image is claimed without a gap.

A manager that starts again in its own process leaves them to itself, through exec.  One that is killed has left them in
systemd's descriptor store, if systemd started it (sd_notify(3), FDSTORE=1).  A descriptor that does I/O is never left:
its lock is to go with the worker that has it.
"""
from __future__ import annotations

import array
import json
import logging
import os
import socket

LEFT = "XENVBD_CLAIMS"          # {"key": descriptor}, from one manager to the next in the same process
FIRST = 3                       # SD_LISTEN_FDS_START

log = logging.getLogger("xenvbd")


def found() -> dict[str, int]:
    """What an earlier manager has left us, by key; each is ours, and is found once."""
    left = {str(key): int(fd) for key, fd in json.loads(os.environ.pop(LEFT, "{}")).items()}
    names, pid = os.environ.pop("LISTEN_FDNAMES", ""), os.environ.pop("LISTEN_PID", "")
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    if pid == str(os.getpid()):
        for key, fd in zip(names.split(":"), range(FIRST, FIRST + count), strict=False):
            if key in left:
                os.close(fd)
            else:
                left[key] = fd
    for fd in left.values():
        os.set_inheritable(fd, False)
    return left


def leave(descriptors: dict[str, int]) -> None:
    """Leave these to the manager that is executed in this process."""
    for fd in descriptors.values():
        os.set_inheritable(fd, True)
    os.environ[LEFT] = json.dumps(descriptors)


def notify(state: str, descriptor: int | None = None) -> None:
    """sd_notify(3): tell systemd, if it started us; with a descriptor that it is to keep."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    rights = [] if descriptor is None else [
        (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]).tobytes())]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.sendmsg([state.encode()], rights)
        except OSError as exc:
            log.warning("systemd cannot be told %r: %s", state, exc)


def keep(key: str, descriptor: int) -> None:
    """Let systemd keep a descriptor under this name, in the place of what it kept under it."""
    drop(key)
    notify(f"FDSTORE=1\nFDNAME={key}\nFDPOLL=0", descriptor)


def drop(key: str) -> None:
    """Nothing of this name is to be kept any more."""
    notify(f"FDSTOREREMOVE=1\nFDNAME={key}")



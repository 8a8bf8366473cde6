"""What can go wrong, as OSError subclasses that name the disk and the path; and the exit status of each."""
from __future__ import annotations

import errno as _errno
import os
from typing import Any

from xenvbd.text import quoted


class Error(OSError):
    """Anything that xenvbd itself reports.  errno is positive; message is one sentence without a full stop.

    disk is "DOMAIN:VDEV" and path a xenstore path or a file, where they are known."""

    disk: str | None
    path: str | None
    message: str

    def __init__(self, errno: int, message: str, *, disk: str | None = None, path: str | None = None) -> None:
        super().__init__(errno, message)
        self.message = message
        self.disk = disk
        self.path = path

    def __str__(self) -> str:
        return f"{quoted(self.disk)}: {self.reason}" if self.disk else self.reason

    @property
    def reason(self) -> str:
        """What went wrong, for whoever knows with which disk."""
        return f"{self.path}: {self.message}" if self.path else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.errno, self.message, self.disk, self.path))


class StoreError(Error):
    """xenstored refused a request, or the connection to it is gone."""


class HypervisorError(Error):
    """A call to event channels or grant tables failed."""


class NoHypervisor(HypervisorError):
    """There is no Xen on this host, or its devices cannot be opened."""


class TargetError(Error):
    """The target cannot be opened, locked or used as a disk."""


class PolicyError(TargetError):
    """The configuration forbids what was asked for: a target outside the allowed places, say."""


class ClaimError(Error):
    """Another backend, or another disk, already has what was asked for."""


class ProtocolError(Error):
    """The frontend's nodes or its ring break the protocol of blkif.h."""


class PropertyError(Error):
    """A property that an administrator gave is wrong: a name, a number, a size, a key of a file."""


class ControlError(Error):
    """The daemon cannot be reached over its control socket."""


class NoSuchDisk(Error):
    """There is no such disk or domain."""


def _rebuild(cls: type[Error], errno: int, message: str, disk: str | None, path: str | None) -> Error:
    return cls(errno, message, disk=disk, path=path)


def check(rc: int, what: str, *, cls: type[Error] = HypervisorError, disk: str | None = None,
          path: str | None = None) -> int:
    """The gate between C and Python: return rc if it is 0 or more, else raise cls for the errno -rc."""
    if rc >= 0:
        return rc
    raise cls(-rc, f"{what}: {os.strerror(-rc)}", disk=disk, path=path)


# Exit status of the command: (status, what it says, what leads to it).  The first row that fits wins.
DONE, FAILED, USAGE, NO_SUCH, TIMED_OUT, UNREACHABLE, NO_XEN, REFUSED = range(8)
EXIT_CODES: tuple[tuple[int, str, tuple[type[BaseException], ...]], ...] = (
    (DONE, "done", ()),
    (TIMED_OUT, "timed out", (TimeoutError,)),
    (USAGE, "usage: an option, a name or the configuration is wrong", (PropertyError,)),
    (NO_SUCH, "no such disk or domain", (NoSuchDisk,)),
    (UNREACHABLE, "the daemon cannot be reached", (ControlError,)),
    (NO_XEN, "no Xen on this host", (NoHypervisor,)),
    (REFUSED, "refused by policy, or another backend has it", (PolicyError, ClaimError)),
    (FAILED, "failed", (BaseException,)),
)


def exit_code(exc: BaseException | None) -> int:
    """The command's exit status for what was raised; None is success."""
    if exc is None:
        return DONE
    if isinstance(exc, Error) and exc.errno == _errno.ETIMEDOUT:
        return TIMED_OUT
    return next(status for status, _, classes in EXIT_CODES if isinstance(exc, classes))


_CLASSES: dict[str, type[Error]] = {cls.__name__: cls for cls in (
    Error, StoreError, HypervisorError, NoHypervisor, TargetError, PolicyError, ClaimError, ProtocolError,
    PropertyError, ControlError, NoSuchDisk)}


def reason(exc: OSError) -> str:
    """What went wrong, without the name of the disk."""
    return exc.reason if isinstance(exc, Error) else str(exc)


def to_json(exc: OSError) -> dict[str, Any]:
    """The error as JSON-able fields, so that another process can raise the same again."""
    if isinstance(exc, Error):
        return {"class": type(exc).__name__, "errno": exc.errno, "message": exc.message,
                "disk": exc.disk, "path": exc.path}
    return {"class": "Error", "errno": exc.errno or _errno.EIO, "message": exc.strerror or str(exc),
            "disk": None, "path": exc.filename if isinstance(exc.filename, str) else None}


def from_json(fields: dict[str, Any]) -> Error:
    """The error that to_json() described; a class of another version comes back as Error."""
    cls = _CLASSES.get(str(fields.get("class")), Error)
    return cls(int(fields.get("errno") or _errno.EIO), str(fields.get("message")),
               disk=fields.get("disk"), path=fields.get("path"))

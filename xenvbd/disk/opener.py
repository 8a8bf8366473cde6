"""disk.open(): from a parsed target to a Disk of the right engine."""
from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from xenvbd.disk.disk import Disk
from xenvbd.disk.image import Image, inspect, open_image
from xenvbd.disk.memory import MemoryDisk
from xenvbd.disk.null import NullDisk
from xenvbd.disk.rings import unavailable
from xenvbd.disk.threads import ThreadsDisk
from xenvbd.disk.uring import UringDisk
from xenvbd.errors import PropertyError, TargetError

if TYPE_CHECKING:
    from xenvbd.target import Target

FILE_ENGINES = {"uring": UringDisk, "threads": ThreadsDisk}
SIZED_ENGINES = {"memory": MemoryDisk, "null": NullDisk}
ENGINES = (*FILE_ENGINES, *SIZED_ENGINES)
SIZED_SCHEMES = {"mem": "memory", "null": "null"}


def open(target: Target, *, fd: int | None = None, guard: int | None = None, read_only: bool = False,
         direct: bool | None = None, logical_block_size: int = 512, engine: str = "auto", discard: bool = True) -> Disk:
    """A Disk for a target.

    fd: an image that open_image() opened and locked; the Disk owns it from here on, also when this raises.
    None: open and lock target.path here.  guard: a descriptor of its fence file, likewise.  direct: see open_image().
    engine: "auto" takes io_uring where this host allows it, else threads; a name insists.  Raises PropertyError,
    TargetError, ClaimError."""
    try:
        name = choose(target, engine)
        if name in SIZED_ENGINES:
            return _sized(name, target, read_only, logical_block_size, discard)
        image = _image(target, fd, read_only, direct, logical_block_size)
        fence = -1 if guard is None else guard
        fd = guard = None       # the Disk closes them, however its making ends
        return FILE_ENGINES[name](str(target), image, logical_block_size=logical_block_size, discard=discard,
                                  guard=fence)
    finally:
        for mine in (fd, guard):
            if mine is not None:
                os.close(mine)


def choose(target: Target, engine: str) -> str:
    """The name of the engine that open() takes, or the error that it raises.  A scheme that is its own engine takes
    no other."""
    own = SIZED_SCHEMES.get(target.scheme)
    if own:
        if engine not in ("auto", own):
            raise PropertyError(errno.EINVAL, f"engine {engine} does not fit {target}: it is its own engine")
        return own
    if engine == "auto":
        return "threads" if unavailable() else "uring"
    if engine not in FILE_ENGINES:
        raise PropertyError(errno.EINVAL, f"engine {engine} is not known for {target}: "
                            f"expected auto, {' or '.join(FILE_ENGINES)}")
    if engine == "uring" and (code := unavailable()):
        raise TargetError(code, f"engine uring does not work here: {os.strerror(code)} (see the sysctl "
                          "kernel.io_uring_disabled); say engine = \"threads\" in the configuration")
    return engine


def _sized(name: str, target: Target, read_only: bool, logical_block_size: int, discard: bool) -> Disk:
    if not target.size:
        raise PropertyError(errno.EINVAL, f"{target} has no size: expected {target.scheme}:SIZE, such as "
                            f"{target.scheme}:1G")
    try:
        return SIZED_ENGINES[name](str(target), target.size, read_only=read_only,
                                   logical_block_size=logical_block_size, discard=discard)
    except OSError as error:
        raise TargetError(error.errno or errno.ENOMEM, f"no room for {target}: {error.strerror}") from error


def _image(target: Target, fd: int | None, read_only: bool, direct: bool | None, logical: int) -> Image:
    path = target.path or ""
    if fd is None:
        return open_image(path, read_only=read_only, direct=direct, logical_block_size=logical)
    return inspect(fd, path, read_only=read_only, direct=direct, logical_block_size=logical)

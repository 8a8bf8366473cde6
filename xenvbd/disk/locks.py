"""Locks of images: open file description locks, on the very description that does the I/O.

Such a lock outlives a killed process until its last write has landed, because the kernel keeps the
description until then; no other kind does, so no other can tell a successor when it may start.  The bytes
that are locked lie far past the end of any image, where QEMU's and cloud-hypervisor's own locks are not.
"""
from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from xenvbd.errors import ClaimError, TargetError

SHARE_BYTE = 1 << 62            # exclusive for the one writer; shared by readers, and by writers with xl's w!
FENCE_BYTE = 1 << 61            # + a hash of the vbd: exclusive for each writer, shared or not
WAIT_STEP = 0.05


def lock_image(fd: int, path: str, *, exclusive: bool, fence: str | None = None, wait: bool = False) -> None:
    """Lock an image on its I/O descriptor; the lock goes when the last copy of the descriptor is closed.

    fence names the vbd (needs a descriptor open for writing).  Raises ClaimError that names the process which
    holds the image (errno EINPROGRESS if that is gone, but not all it had begun), unless wait; TargetError where
    the file system has no locks."""
    _lock(fd, path, fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, SHARE_BYTE, wait)
    if fence is not None:
        _lock(fd, path, fcntl.F_WRLCK, FENCE_BYTE + zlib.crc32(fence.encode()), wait)


def holders(fd: int) -> list[str]:
    """Who holds a lock of ours on this file: "process 12 (xenvbd-worker web1)"."""
    inode = os.fstat(fd).st_ino
    return [f"process {pid} ({_command(pid)})" for pid in _processes()
            if any(_is_ours(line, inode) for line in _lock_lines(pid))]


def _lock(fd: int, path: str, kind: int, offset: int, wait: bool) -> None:
    # struct flock: type, whence, start, length, pid; ctypes-free because all of Linux's 64-bit ABIs agree.
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, offset, 1, 0)
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise TargetError(error.errno or errno.EIO, f"cannot be locked: {error.strerror}",
                                  path=path) from error
        if not wait:
            raise _refusal(fd, path)
        time.sleep(WAIT_STEP)


def _refusal(fd: int, path: str) -> ClaimError:
    """EBUSY if a process has the image; EINPROGRESS if none can be found, and so its lock will go by itself."""
    names = holders(fd)
    if not names:
        message = "locked by a process that is gone or hidden, whose last writes may still be under way"
        return ClaimError(errno.EINPROGRESS, message, path=path)
    return ClaimError(errno.EBUSY, f"locked by {', '.join(names)}; detach it there first", path=path)


def _processes() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _lock_lines(pid: int) -> Iterator[str]:
    """The "lock:" lines of a process's descriptors; nothing for a process that is gone or not ours to see."""
    try:
        files = list(Path(f"/proc/{pid}/fdinfo").iterdir())
    except OSError:
        return
    for file in files:
        try:
            text = file.read_text()
        except OSError:
            continue
        yield from (line for line in text.splitlines() if line.startswith("lock:"))


def _is_ours(line: str, inode: int) -> bool:
    """Whether a line such as "lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:17 START END" is ours, of this file."""
    words = line.split()
    if len(words) < 9 or words[2] != "OFDLCK":
        return False
    return words[-3].endswith(f":{inode}") and int(words[-2]) >= FENCE_BYTE


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
        words = words or Path(f"/proc/{pid}/comm").read_bytes().strip()
    except OSError:
        return "gone"
    return ascii(words[:60].decode(errors="replace"))[1:-1]

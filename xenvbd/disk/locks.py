"""Locks of images: open file description locks, on bytes far past the end of any image.

Such a lock outlives a killed process until its last write has landed, because the kernel keeps the
description until then; no other kind does, so no other can tell a successor when it may start.  QEMU's and
cloud-hypervisor's own locks are on other bytes (QEMU's: qemu_locks).

    claim    the manager's, as long as the vbd exists, on a description that does no I/O
    fence    of each description that does I/O: nobody else's is left when it is taken
"""
from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
import zlib

from xenvbd.disk.holders import DisksOf, Range, nobody, refusal
from xenvbd.errors import TargetError

FENCE_BYTE = 1 << 61            # + a hash of the vbd: exclusive for each writer, shared or not
SHARE_BYTE = 1 << 62            # shared by each I/O description; exclusive for a moment, or as 0.1 has it: for good
CLAIM_BYTE = SHARE_BYTE + 1     # exclusive for the one writer; shared by readers, and by writers with xl's w!
SHARED, EXCLUSIVE, UNLOCKED = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
WAIT_STEP = 0.05

# struct flock: type, whence, start, length, pid; ctypes-free because all of Linux's 64-bit ABIs agree.
_FLOCK = struct.Struct("hhqqi4x")


def take(fd: int, kind: int, start: int, length: int = 1) -> bool:
    """Lock bytes, or change the lock to SHARED or EXCLUSIVE; False if another description's lock is in the way.

    length 0: to the end of all offsets.  Raises OSError where the file system has no locks, or fd not the mode."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def is_free(fd: int, start: int, length: int = 1, kind: int = EXCLUSIVE) -> bool:
    """Whether take() would succeed; nothing is locked.  Raises OSError."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    return bool(_FLOCK.unpack(answer)[0] == UNLOCKED)


def unlock(fd: int) -> None:
    """Let every lock of this description go, whoever has copies of it.  Raises OSError.

    Before it is closed, because a FUSE file system that keeps locks itself hears of no close of such a lock."""
    take(fd, UNLOCKED, 0, 0)


def let_go(fd: int) -> None:
    """Unlock and close a description that does no I/O, or none any more."""
    try:
        unlock(fd)
    except OSError:             # the file system has no locks, or is gone
        pass
    finally:
        os.close(fd)


def lock(fd: int, path: str, kind: int, start: int, *, disks_of: DisksOf = nobody, ours: bool = False) -> None:
    """take(), or the ClaimError that says who is in the way (holders.refusal); TargetError without locks."""
    for _ in range(2):
        try:
            if take(fd, kind, start):
                return
        except OSError as error:
            raise impossible(path, error) from error
        refused = refusal(fd, path, Range(start, start, kind == EXCLUSIVE), disks_of=disks_of, ours=ours)
        if refused.errno != errno.EREMOTE:
            break               # else it may have been let go before it was looked for
    raise refused


def claim(fd: int, path: str, *, exclusive: bool, disks_of: DisksOf = nobody, ours: bool = False) -> None:
    """Claim an image on a description that is kept as long as its vbd exists.  exclusive: for its one writer (fd is
    open for writing).  disks_of, ours: see holders.refusal.  Raises ClaimError, TargetError."""
    lock(fd, path, EXCLUSIVE if exclusive else SHARED, CLAIM_BYTE, disks_of=disks_of, ours=ours)


def fence(fd: int, path: str, *, exclusive: bool, name: str | None, disks_of: DisksOf = nobody,
          ours: bool = False) -> None:
    """Fence a description that is to do I/O.

    exclusive: no other may be left, also of an earlier version: what a dead worker had begun has landed.  name: of the
    vbd, for a writer; None for a reader; ours: see holders.refusal.  Raises ClaimError (EINPROGRESS: not landed
    yet), TargetError."""
    wanted = [(EXCLUSIVE, SHARE_BYTE)] if exclusive else []
    wanted.append((SHARED, SHARE_BYTE))
    if name is not None:
        wanted.append((EXCLUSIVE, FENCE_BYTE + zlib.crc32(name.encode())))
    for kind, byte in wanted:
        lock(fd, path, kind, byte, disks_of=disks_of, ours=ours)


def lock_image(fd: int, path: str, *, exclusive: bool, fence: str | None = None, claim: bool = False,
               wait: bool = False, disks_of: DisksOf = nobody) -> None:
    """Lock an image on its I/O descriptor as 0.1 does; the lock goes when the last copy of it is closed.

    claim: and claim it, for who has no other description.  fence names the vbd (needs a descriptor open for writing).
    Raises ClaimError that names the process which holds the image (errno EINPROGRESS if that is gone, but not all it
    had begun), unless wait; TargetError where the file system has no locks."""
    wanted = [(EXCLUSIVE if exclusive else SHARED, byte) for byte in ((CLAIM_BYTE,) if claim else ()) + (SHARE_BYTE,)]
    if fence is not None:
        wanted.append((EXCLUSIVE, FENCE_BYTE + zlib.crc32(fence.encode())))
    for kind, start in wanted:
        while wait and not _taken(fd, path, kind, start):
            time.sleep(WAIT_STEP)
        lock(fd, path, kind, start, disks_of=disks_of)


def _taken(fd: int, path: str, kind: int, start: int) -> bool:
    try:
        return take(fd, kind, start)
    except OSError as error:
        raise impossible(path, error) from error


def impossible(path: str, error: OSError) -> TargetError:
    """What a lock that the file system cannot give becomes."""
    number = error.errno or errno.EIO
    hint = "; --lock=off gives the lock up" if number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS) else ""
    return TargetError(number, f"cannot be locked: {error.strerror}{hint}", path=path)

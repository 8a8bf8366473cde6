"""QEMU's own image locks, taken as QEMU takes them, so that its tools and we keep each other out.

A user of an image has a shared lock on a byte for each permission that it uses, and on another for each that it does
not let others use; then it looks whether anybody has the counterparts (raw_check_lock_bytes() of QEMU's
block/file-posix.c).  The bytes are the same on files and on block devices, whose locks are per node."""
from __future__ import annotations

import errno

from xenvbd.disk import locks
from xenvbd.disk.holders import DisksOf, Range, nobody, refusal
from xenvbd.errors import ClaimError

USED, UNSHARED = 100, 200                       # RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE
CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE = range(4)      # bits of BLK_PERM_*
BYTES = 64                                      # there is room for so many permissions


def acquire(fd: int, path: str, *, read_only: bool, share: bool, disks_of: DisksOf = nobody) -> None:
    """Lock an image against QEMU and its tools, as QEMU's own disks do; share: others may write (share-rw=on).

    ClaimError, and nothing is locked: a QEMU has it, which is named as in holders.refusal().  TargetError: the file
    system has no locks."""
    used = [CONSISTENT_READ] + ([] if read_only else [WRITE])
    unshared = [RESIZE] + ([] if share else [WRITE])
    try:
        _lock(fd, path, [USED + bit for bit in used] + [UNSHARED + bit for bit in unshared])
        _check(fd, path, [UNSHARED + bit for bit in used] + [USED + bit for bit in unshared], disks_of)
    except OSError:
        release(fd)
        raise


def release(fd: int) -> None:
    """Let QEMU's bytes of this description go, and no others; nothing happens without them."""
    try:
        locks.take(fd, locks.UNLOCKED, USED, UNSHARED + BYTES - USED)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _lock(fd: int, path: str, wanted: list[int]) -> None:
    for byte in wanted:
        locks.lock(fd, path, locks.SHARED, byte)


def _check(fd: int, path: str, counterparts: list[int], disks_of: DisksOf) -> None:
    for byte in counterparts:
        if not _is_free(fd, path, byte):
            raise _refusal(refusal(fd, path, Range(byte, byte, True), disks_of=disks_of))


def _is_free(fd: int, path: str, byte: int) -> bool:
    try:
        return locks.is_free(fd, byte)
    except OSError as error:
        raise locks.impossible(path, error) from error


def _refusal(error: ClaimError) -> ClaimError:
    """The same error, which says that it is QEMU's lock."""
    return ClaimError(error.errno or errno.EBUSY, f"QEMU's image lock: {error.message}", path=error.path)

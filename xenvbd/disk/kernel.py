"""System calls that Python has no function for: openat2, statx for direct I/O, fallocate, block ioctls."""
from __future__ import annotations

import ctypes
import fcntl
import os
import struct

SYS_OPENAT2 = 437               # the same number on every architecture but alpha
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

AT_EMPTY_PATH = 0x1000
STATX_DIOALIGN = 0x2000
STATX_SIZE, STATX_MASK_AT, STATX_DIO_AT = 256, 0, 152

STATFS_SIZE = 256               # struct statfs has 120 bytes
TMPFS_MAGIC, RAMFS_MAGIC = 0x01021994, 0x858458F6

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2

BLKROGET, BLKSSZGET, BLKPBSZGET, BLKGETSIZE64 = 0x125E, 0x1268, 0x127B, 0x80081272

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2): a descriptor.  Raises OSError: ELOOP for a link, EXDEV for a way out of the directory."""
    how = struct.pack("QQQ", flags, 0, resolve)
    return _check(_libc.syscall(ctypes.c_long(SYS_OPENAT2), ctypes.c_int(directory),
                                ctypes.c_char_p(os.fsencode(path)), ctypes.c_char_p(how),
                                ctypes.c_size_t(len(how))))


def direct_alignment(fd: int) -> tuple[int, int] | None:
    """(memory, offset) alignment for O_DIRECT in bytes; (0, 0): it cannot; None: the kernel does not say."""
    buffer = ctypes.create_string_buffer(STATX_SIZE)
    if _libc.statx(fd, b"", AT_EMPTY_PATH, STATX_DIOALIGN, buffer) < 0:
        return None
    (mask,) = struct.unpack_from("I", buffer, STATX_MASK_AT)
    memory, offset = struct.unpack_from("II", buffer, STATX_DIO_AT)
    return (memory, offset) if mask & STATX_DIOALIGN else None


def file_system(fd: int) -> int:
    """The magic number of the file system (linux/magic.h); of a device, that of its node's."""
    buffer = ctypes.create_string_buffer(STATFS_SIZE)
    _check(_libc.fstatfs(fd, buffer))
    (magic,) = struct.unpack_from("l", buffer)
    return int(magic)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range back to the file system; they read as zeros.  Raises OSError."""
    _check(_libc.fallocate(ctypes.c_int(fd), FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
                           ctypes.c_int64(offset), ctypes.c_int64(length)))


def block_number(fd: int, request: int) -> int:
    """The answer of a block device's ioctl that gives one number.  Raises OSError."""
    layout = "Q" if request == BLKGETSIZE64 else "I"
    answer = fcntl.ioctl(fd, request, bytes(struct.calcsize(layout)))
    (value,) = struct.unpack(layout, answer)
    return int(value)

"""System calls that Python has no function for: openat2, statx, statfs, file handles, fallocate, block ioctls."""
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
STATX_BTIME = 0x0800
STATX_SIZE, STATX_MASK_AT, STATX_BTIME_AT, STATX_DIO_AT = 256, 0, 80, 152

STATFS_SIZE, STATFS_FSID_AT = 256, 56           # struct statfs has 120 bytes
HANDLE_BYTES = 128                              # MAX_HANDLE_SZ
TMPFS_MAGIC, RAMFS_MAGIC = 0x01021994, 0x858458F6

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2

BLKROGET, BLKSSZGET, BLKPBSZGET, BLKGETSIZE64 = 0x125E, 0x1268, 0x127B, 0x80081272
BLKGETDISKSEQ = 0x80081280      # Linux 5.15
WIDE = (BLKGETSIZE64, BLKGETDISKSEQ)            # those that answer with 64 bits

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
    (magic,) = struct.unpack_from("l", _statfs(fd))
    return int(magic)


def file_system_id(fd: int) -> str:
    """f_fsid of the file system, as hexadecimal digits: the same after it was mounted anew, where st_dev is not."""
    return _statfs(fd)[STATFS_FSID_AT:STATFS_FSID_AT + 8].hex()


def _statfs(fd: int) -> bytes:
    buffer = ctypes.create_string_buffer(STATFS_SIZE)
    _check(_libc.fstatfs(fd, buffer))
    return buffer.raw


def file_handle(fd: int) -> str:
    """name_to_handle_at(2): type and bytes as hexadecimal digits; they hold the inode's generation.  Empty where the
    file system has no handles."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", HANDLE_BYTES, 0), 8 + HANDLE_BYTES)
    mount = ctypes.c_int()
    if _libc.name_to_handle_at(fd, b"", buffer, ctypes.byref(mount), AT_EMPTY_PATH) < 0:
        return ""
    size, kind = struct.unpack_from("Ii", buffer)
    return f"{kind:x}:{buffer.raw[8:8 + size].hex()}"


def birth_time(fd: int) -> str:
    """When the inode was made, "SECONDS.NANOSECONDS"; empty where the file system does not say."""
    buffer = ctypes.create_string_buffer(STATX_SIZE)
    if _libc.statx(fd, b"", AT_EMPTY_PATH, STATX_BTIME, buffer) < 0:
        return ""
    (mask,) = struct.unpack_from("I", buffer, STATX_MASK_AT)
    seconds, nanoseconds = struct.unpack_from("qI", buffer, STATX_BTIME_AT)
    return f"{seconds}.{nanoseconds:09d}" if mask & STATX_BTIME else ""


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range back to the file system; they read as zeros.  Raises OSError."""
    _check(_libc.fallocate(ctypes.c_int(fd), FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
                           ctypes.c_int64(offset), ctypes.c_int64(length)))


def block_number(fd: int, request: int) -> int:
    """The answer of a block device's ioctl that gives one number.  Raises OSError."""
    layout = "Q" if request in WIDE else "I"
    answer = fcntl.ioctl(fd, request, bytes(struct.calcsize(layout)))
    (value,) = struct.unpack(layout, answer)
    return int(value)

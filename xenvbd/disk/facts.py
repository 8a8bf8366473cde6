"""What can be learnt about an open image: block sizes, direct I/O, discard."""
from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from pathlib import Path

from xenvbd.disk import kernel
from xenvbd.errors import TargetError

SECTOR = 512
LARGEST_BLOCK = 4096


def block_sizes(fd: int, status: os.stat_result) -> tuple[int, int]:
    """(logical, physical) block size in bytes; a file's are 512 and its file system's block, 4096 at most."""
    if stat.S_ISBLK(status.st_mode):
        return kernel.block_number(fd, kernel.BLKSSZGET), kernel.block_number(fd, kernel.BLKPBSZGET)
    return SECTOR, _file_system_block(status)


def set_direct(fd: int, path: str, wanted: bool | None, logical_block_size: int) -> int:
    """Turn O_DIRECT on or off, as wanted (None: on where it works in blocks of that size).

    The alignment that I/O then needs, 1 for buffered.  Raises TargetError where True is wanted in vain."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if wanted is not False:
        alignment = 0 if _is_memory(fd) else _direct_alignment(fd, flags)
        if 1 < alignment <= logical_block_size:
            return alignment
        if wanted:
            why = f"it needs {alignment}" if alignment else "its file system has none"
            raise TargetError(errno.EINVAL, f"direct I/O in blocks of {logical_block_size} bytes fails: "
                              f"{why}; attach it with --no-direct (direct-io = false)", path=path)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return 1


def discard(fd: int, status: os.stat_result, physical: int) -> tuple[bool, int, int]:
    """(can, granularity, alignment) of discard; bytes.  Punching past the end is the harmless question."""
    if stat.S_ISBLK(status.st_mode):
        return _device_discard(status.st_rdev, physical)
    block = _file_system_block(status)
    try:
        kernel.punch_hole(fd, -(-status.st_size // block) * block, block)
    except OSError:
        return False, block, 0
    return True, block, 0


def _is_memory(fd: int) -> bool:
    """tmpfs takes O_DIRECT since Linux 6.6, and ignores it."""
    return (stat.S_ISREG(os.fstat(fd).st_mode)
            and kernel.file_system(fd) in (kernel.TMPFS_MAGIC, kernel.RAMFS_MAGIC))


def _direct_alignment(fd: int, flags: int) -> int:
    """Turn O_DIRECT on and say what alignment it needs in bytes; 0 where it does not work."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        return 0
    said = kernel.direct_alignment(fd)
    sizes = [SECTOR, LARGEST_BLOCK] if said is None else [max(SECTOR, *said)] if said[1] else []
    return next((size for size in sizes if _direct_read_works(fd, size)), 0)


def _direct_read_works(fd: int, size: int) -> bool:
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS         # a worker may have no other
    with mmap.mmap(-1, max(size, mmap.PAGESIZE), private) as memory, memoryview(memory)[:size] as block:
        try:
            os.preadv(fd, [block], 0)
        except OSError as error:
            return error.errno != errno.EINVAL
        return True


def _file_system_block(status: os.stat_result) -> int:
    size = status.st_blksize
    return min(size, LARGEST_BLOCK) if size >= SECTOR and size & (size - 1) == 0 else LARGEST_BLOCK


def _device_discard(rdev: int, physical: int) -> tuple[bool, int, int]:
    """From sysfs; a process that may not read it (a sandboxed worker) finds out when a discard fails."""
    device = Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")
    queue = device / "queue" if (device / "queue").is_dir() else device.resolve().parent / "queue"
    try:
        granularity = _number(queue / "discard_granularity")
        # Holes are punched, for they must read as zeros: that takes a device that can write zeros by itself.
        can = granularity > 0 and _number(queue / "write_zeroes_max_bytes") > 0
        return can, max(granularity, physical), _number(device / "discard_alignment")
    except OSError:
        return True, physical, 0


def _number(file: Path) -> int:
    """0 where a device does not have it.  Raises OSError where nothing can be read."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError) as error:
        if not file.parent.is_dir():
            raise OSError(errno.ENOENT, "no sysfs") from error
        return 0

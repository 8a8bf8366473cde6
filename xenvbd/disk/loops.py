"""Loop devices: which file each is over, by device and inode; the path in sysfs is only what it was called once."""
from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

LOOP_GET_STATUS64 = 0x4C05
# struct loop_info64: device, inode, rdevice, offset, limit; number, two of encryption, flags; then names and keys
INFO = struct.Struct("5Q4I184x")
READ_ONLY = 1


@dataclass(frozen=True)
class Loop:
    """A loop device that is set up.  file: (device, inode) beneath it; backing: the device beneath it, if it is one, or
    0; path: what the file was called."""

    name: str
    rdev: int
    file: tuple[int, int]
    backing: int
    read_only: bool
    path: str

    def is_over(self, status: os.stat_result) -> bool:
        """Whether that file or block device is beneath it."""
        if stat.S_ISBLK(status.st_mode):
            return self.backing == status.st_rdev
        return self.file == (status.st_dev, status.st_ino)


def all_loops(*, root: str = "/") -> list[Loop]:
    """Every loop device of this host that is set up.  root: of /sys and /dev."""
    found = [_loop(root, entry) for entry in sorted(Path(root, "sys/block").glob("loop*/loop"))]
    return [loop for loop in found if loop is not None]


def _loop(root: str, entry: Path) -> Loop | None:
    name = entry.parent.name
    try:
        major, minor = (entry.parent / "dev").read_text().strip().split(":")
        path = (entry / "backing_file").read_text().rstrip("\n")
    except (OSError, ValueError):
        return None                     # it was taken down meanwhile
    rdev = os.makedev(int(major), int(minor))
    file = _asked(root, name) or _by_path(root, path)
    return None if file is None else Loop(name, rdev, *file, path)


def _asked(root: str, name: str) -> tuple[tuple[int, int], int, bool] | None:
    """What the device itself says: (file, backing device, read-only)."""
    try:
        fd = os.open(Path(root, "dev", name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None                     # its node may be another's, as in a container
    try:
        device, inode, rdevice, *_, flags = INFO.unpack(fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(INFO.size)))
        return (device, inode), rdevice, bool(flags & READ_ONLY)
    except OSError:
        return None
    finally:
        os.close(fd)


def _by_path(root: str, path: str) -> tuple[tuple[int, int], int, bool] | None:
    """What lies there now, where the device cannot be asked."""
    try:
        status = os.stat(root + path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino), status.st_rdev if stat.S_ISBLK(status.st_mode) else 0, False

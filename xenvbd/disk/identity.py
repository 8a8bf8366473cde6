"""What an image is, as opposed to where it lies: what tells it from any other that its path, its inode number or its
device number may mean later.

A manager that lives needs none of this: it holds the image open.  One that comes after it has the path alone, and file
systems use the number of a removed inode again at once."""
from __future__ import annotations

import functools
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xenvbd.disk import kernel

BOOT_ID = "/proc/sys/kernel/random/boot_id"


@functools.cache
def boot_id() -> str:
    """The kernel's random name for this boot."""
    return Path(BOOT_ID).read_text().strip()


@dataclass(frozen=True)
class Identity:
    """One image, as long as this host runs.

    dev: st_dev of a file, st_rdev of a device; generation, birth: of a file's inode, empty where the file system has
    none; fsid: of a file system whose st_dev is made up at each mount; diskseq: of the whole disk, 0 before Linux 5.15;
    start: of a partition, in sectors."""

    is_block: bool
    dev: int
    ino: int = 0
    generation: str = ""
    birth: str = ""
    fsid: str = ""
    diskseq: int = 0
    start: int = 0
    boot: str = ""

    @classmethod
    def of(cls, fd: int) -> Identity:
        """Of an open image.  Raises OSError."""
        status = os.fstat(fd)
        if stat.S_ISBLK(status.st_mode):
            return cls(True, status.st_rdev, diskseq=_diskseq(fd), start=_start(status.st_rdev), boot=boot_id())
        fsid = "" if os.major(status.st_dev) else kernel.file_system_id(fd)
        return cls(False, status.st_dev, status.st_ino, kernel.file_handle(fd), kernel.birth_time(fd), fsid,
                   boot=boot_id())

    @property
    def number(self) -> tuple[int, int]:
        """(device, inode) while it is open; the inode of a device is 0, for udev may make its node anew."""
        return self.dev, self.ino

    def is_of(self, status: os.stat_result) -> bool:
        """Whether an image that is open has this status."""
        is_block = stat.S_ISBLK(status.st_mode)
        return self.number == ((status.st_rdev, 0) if is_block else (status.st_dev, status.st_ino))

    def difference(self, now: Identity) -> str:
        """In what the image that is there now is another, in words; empty if it is the same."""
        for what, then, found in self._compared(now):
            if then != found:
                return f"its {what} was {then} and is {found}"
        return ""

    def _compared(self, now: Identity) -> list[tuple[str, Any, Any]]:
        kinds = {True: "a block device", False: "a regular file"}
        rows: list[tuple[str, Any, Any]] = [
            ("host's boot", self.boot, now.boot), ("kind", kinds[self.is_block], kinds[now.is_block])]
        if self.is_block or not (self.fsid and now.fsid):
            rows.append(("device number", _pair(self.dev), _pair(now.dev)))
        rows += [("file system", self.fsid, now.fsid), ("inode number", self.ino, now.ino),
                 ("disk sequence number", self.diskseq, now.diskseq), ("first sector", self.start, now.start)]
        return rows + [(what, then, found) for what, then, found in (
            ("inode's generation", self.generation, now.generation), ("inode's birth", self.birth, now.birth))
            if then and found]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Identity:
        """Raises TypeError if these are not the fields."""
        return cls(**fields)


def _pair(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def _diskseq(fd: int) -> int:
    try:
        return kernel.block_number(fd, kernel.BLKGETDISKSEQ)
    except OSError:
        return 0


def _start(rdev: int) -> int:
    try:
        return int(Path(f"/sys/dev/block/{_pair(rdev)}/start").read_text())
    except (OSError, ValueError):           # a whole disk has none
        return 0

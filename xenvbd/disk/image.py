"""An open image and what can be found out about it.

No format is ever probed: an image is raw, whatever its first sector looks like (CVE-2008-2004).
"""
from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from xenvbd.disk import facts, kernel, places
from xenvbd.disk.locks import let_go, lock_image


@dataclass(frozen=True)
class Image:
    """An open image and what was found out about it.  Sizes are in bytes; fd is the holder's to close."""

    path: str
    fd: int
    size: int
    dev: int
    ino: int
    is_block: bool
    read_only: bool
    direct: bool                # O_DIRECT is on
    alignment: int              # of offset, length and memory: 1 unless direct
    logical_block_size: int
    physical_block_size: int
    can_discard: bool
    discard_granularity: int
    discard_alignment: int

    def close(self) -> None:
        """Close the descriptor; the lock stays if the descriptor was handed to another process."""
        os.close(self.fd)


def open_image(path: str, *, read_only: bool, direct: bool | None = None, allow: Sequence[str] = ("/",),
               lock: bool = True, share: bool = False, wait: bool = False, fence: str | None = None,
               logical_block_size: int = 512) -> Image:
    """Open a regular file or a block device as a raw disk.

    direct: True insists on O_DIRECT, None uses it where it works in logical_block_size, False never does.
    allow: directories that images may lie in ("/": anywhere).  share: other writers may have it (xl's w!).
    fence: the name of the vbd whose writes the lock fences; wait: for the lock, as long as it takes.
    Raises PolicyError (outside the allowed places), ClaimError (in use), TargetError (all else)."""
    where = places.find(path, allow)
    try:
        fd = places.reopen(where, path, read_only=read_only, wait=wait, exclusive=lock and not (read_only or share))
    finally:
        os.close(where)
    with places.named(path):
        try:
            places.make_blocking(fd, path, read_only=read_only)
            if lock:
                lock_image(fd, path, exclusive=not (read_only or share), wait=wait, claim=True,
                           fence=None if read_only else fence)
            return inspect(fd, path, read_only=read_only, direct=direct, logical_block_size=logical_block_size)
        except BaseException:
            let_go(fd)
            raise


def inspect(fd: int, path: str, *, read_only: bool, direct: bool | None = None,
            logical_block_size: int = 512) -> Image:
    """The facts of a descriptor that open_image() opened, perhaps elsewhere; sets O_DIRECT as asked."""
    status = os.fstat(fd)
    is_block = stat.S_ISBLK(status.st_mode)
    logical, physical = facts.block_sizes(fd, status)
    alignment = facts.set_direct(fd, path, direct, logical_block_size)
    can_discard, granularity, offset = facts.discard(fd, status, physical)
    return Image(
        path=path, fd=fd, dev=status.st_rdev if is_block else status.st_dev, ino=status.st_ino,
        size=kernel.block_number(fd, kernel.BLKGETSIZE64) if is_block else status.st_size,
        is_block=is_block, read_only=read_only, direct=alignment > 1, alignment=alignment,
        logical_block_size=logical, physical_block_size=physical,
        can_discard=can_discard and not read_only, discard_granularity=granularity, discard_alignment=offset)

"""Opening an image: only beneath the allowed places, only a file or a block device, checked and locked.

No format is ever probed: an image is raw, whatever its first sector looks like (CVE-2008-2004).
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xenvbd.disk import facts, kernel, links
from xenvbd.disk.locks import WAIT_STEP, lock_image
from xenvbd.errors import ClaimError, Error, PolicyError, TargetError

KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a character device", stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a symbolic link",
}
EXPECTED = "expected a regular file or a block device"
RACES = 10                      # openat2() says EAGAIN when somebody renames a directory meanwhile


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
    with _named(path):
        where = _find(path, list(allow))
        try:
            _check_kind(where, path)
            fd = _reopen(where, path, read_only=read_only, wait=wait, exclusive=lock and not (read_only or share))
        finally:
            os.close(where)
        try:
            _make_blocking(fd, path, read_only=read_only)
            if lock:
                lock_image(fd, path, exclusive=not (read_only or share), wait=wait,
                           fence=None if read_only else fence)
            return inspect(fd, path, read_only=read_only, direct=direct, logical_block_size=logical_block_size)
        except BaseException:
            os.close(fd)
            raise


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Whatever fails says of which file."""
    try:
        yield
    except Error:
        raise
    except OSError as error:
        raise TargetError(error.errno or errno.EIO, error.strerror or str(error), path=path) from error


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


# Finding it.

def _find(path: str, allow: list[str]) -> int:
    """An O_PATH descriptor of the target: nothing is opened that could notice (a tape would rewind)."""
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise TargetError(errno.EINVAL, "expected an absolute path without '..'", path=repr(path)[1:-1])
    path = links.normal(path)
    root = next((r for r in allow if Path(path).is_relative_to(r)), None)
    if root is None:
        places = ", ".join(allow) or "none"
        raise PolicyError(errno.EACCES, f"outside the allowed places ({places})", path=path)
    return _follow(path) if _may_be_a_link(path) else _walk(path, root)


def _may_be_a_link(path: str) -> bool:
    """Whether udev makes the links of this path (/dev/VG/LV); followed as long as they stay in /dev."""
    path = links.normal(path)
    return Path(path).is_relative_to("/dev") and not Path(path).is_relative_to("/dev/shm")


def _follow(path: str) -> int:
    try:
        return links.open_beneath(path, "/dev")
    except Error:
        raise
    except OSError as error:
        raise TargetError(error.errno or errno.EIO, error.strerror or "cannot be found", path=path) from error


def _walk(path: str, root: str) -> int:
    try:
        directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError(error.errno or errno.EIO, f"{root}: {error.strerror}", path=path) from error
    name = os.path.relpath(path, root)
    resolve = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_MAGICLINKS | kernel.RESOLVE_NO_SYMLINKS
    try:
        for _ in range(RACES):
            try:
                return kernel.openat2(directory, name, os.O_PATH | os.O_CLOEXEC, resolve)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise _why_not_found(path, error) from error
        raise TargetError(errno.EAGAIN, "its directories are being renamed", path=path)
    finally:
        os.close(directory)


def _why_not_found(path: str, error: OSError) -> Error:
    if error.errno == errno.ELOOP:
        for step in [*reversed(Path(path).parents), Path(path)]:
            if step.is_symlink():
                return TargetError(errno.ELOOP, f"found a symbolic link ({step} -> {os.readlink(step)}), "
                                   f"{EXPECTED}; name the file itself", path=path)
    if error.errno == errno.EXDEV:
        return PolicyError(errno.EXDEV, "leads out of the allowed place", path=path)
    if error.errno == errno.ENOSYS:
        return TargetError(errno.ENOSYS, "openat2() is missing: Linux 5.6 or newer is needed", path=path)
    return TargetError(error.errno or errno.EIO, error.strerror or "cannot be found", path=path)


def _check_kind(fd: int, path: str) -> None:
    mode = os.fstat(fd).st_mode
    if stat.S_ISBLK(mode) or (stat.S_ISREG(mode) and not _may_be_a_link(path)):
        return
    found = KINDS.get(stat.S_IFMT(mode), "a file among the devices")
    raise TargetError(errno.EINVAL, f"found {found}, {EXPECTED}", path=path)


# Opening it.

def _reopen(where: int, path: str, *, read_only: bool, exclusive: bool, wait: bool) -> int:
    """A descriptor for I/O of what an O_PATH descriptor stands for; no name is looked up again."""
    flags = os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDONLY if read_only else os.O_RDWR)
    is_block = stat.S_ISBLK(os.fstat(where).st_mode)
    if is_block and exclusive:
        flags |= os.O_EXCL      # refuses a device that is mounted, or part of an LVM group or a RAID
    while True:
        try:
            return os.open(f"/proc/self/fd/{where}", flags)
        except OSError as error:
            if error.errno != errno.EBUSY or not wait:
                raise _why_not_opened(path, where, error) from error
        time.sleep(WAIT_STEP)


def _make_blocking(fd: int, path: str, *, read_only: bool) -> None:
    """It was opened without waiting; and a block device says only now that it cannot be written to."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    is_block = stat.S_ISBLK(os.fstat(fd).st_mode)
    if is_block and not read_only and kernel.block_number(fd, kernel.BLKROGET):
        raise TargetError(errno.EROFS, "found a read-only block device, expected a writable one; "
                          "attach it with mode r", path=path)


def _why_not_opened(path: str, where: int, error: OSError) -> Error:
    if error.errno == errno.EBUSY:
        return ClaimError(errno.EBUSY, f"in use: {facts.device_user(os.fstat(where).st_rdev)}", path=path)
    hint = {errno.EROFS: "; attach it with mode r", errno.EACCES: f" for user {os.geteuid()}",
            errno.ETXTBSY: "; it is a swap file or a running program"}.get(error.errno or 0, "")
    return TargetError(error.errno or errno.EIO, f"{error.strerror}{hint}", path=path)

"""Where images are found and opened: only beneath the allowed places, only regular files and block devices.

No name is looked up twice: what was found is opened through its descriptor.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from xenvbd.disk import kernel, links, users
from xenvbd.disk.locks import WAIT_STEP
from xenvbd.errors import Error, PolicyError, TargetError

KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a character device", stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a symbolic link",
}
EXPECTED = "expected a regular file or a block device"
RACES = 10                      # openat2() says EAGAIN when somebody renames a directory meanwhile


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Whatever fails says of which file."""
    try:
        yield
    except Error:
        raise
    except OSError as error:
        raise TargetError(error.errno or errno.EIO, error.strerror or str(error), path=path) from error


# Finding it.

def find(path: str, allow: Sequence[str]) -> int:
    """An O_PATH descriptor of the image: nothing is opened that could notice (a tape would rewind).

    allow: directories that images may lie in ("/": anywhere).  Raises PolicyError (outside of them), TargetError."""
    with named(path):
        where = _find(path, list(allow))
        try:
            _check_kind(where, path)
        except BaseException:
            os.close(where)
            raise
        return where

def _find(path: str, allow: list[str]) -> int:
    """An O_PATH descriptor of the target: nothing is opened that could notice (a tape would rewind)."""
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise TargetError(errno.EINVAL, "expected an absolute path without '..'", path=repr(path)[1:-1])
    path = links.normal(path)
    root = next((r for r in map(links.normal, allow) if Path(path).is_relative_to(r)), None)
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

def reopen(where: int, path: str, *, read_only: bool, exclusive: bool, wait: bool) -> int:
    """A descriptor of what another descriptor stands for; it was opened without waiting (make_blocking()).

    exclusive: of a device, O_EXCL; wait: until it can be had.  Raises ClaimError (in use), TargetError."""
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


def make_blocking(fd: int, path: str, *, read_only: bool) -> None:
    """It was opened without waiting; and a block device says only now that it cannot be written to."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    is_block = stat.S_ISBLK(os.fstat(fd).st_mode)
    if is_block and not read_only and kernel.block_number(fd, kernel.BLKROGET):
        raise TargetError(errno.EROFS, "found a read-only block device, expected a writable one; "
                          "attach it read-only (--ro, access=ro)", path=path)


def _why_not_opened(path: str, where: int, error: OSError) -> Error:
    if error.errno == errno.EBUSY:
        return users.refusal(os.fstat(where), path)
    hint = {errno.EROFS: "; attach it read-only (--ro, access=ro)", errno.EACCES: f" for user {os.geteuid()}",
            errno.ETXTBSY: "; it is a swap file or a running program"}.get(error.errno or 0, "")
    return TargetError(error.errno or errno.EIO, f"{error.strerror}{hint}", path=path)

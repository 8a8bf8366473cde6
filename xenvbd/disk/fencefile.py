"""The fence file of a vbd: a lock on a file in the runtime directory, beside those on the image.

Whoever does the vbd's I/O holds its description as it holds the image's: the process, and each io_uring has it
registered.  The kernel lets go of both only when the last write that was begun has landed, so the lock tells that
whatever locks the image's file system has, if it has any (docs/decisions/0009-fence-file.md)."""
from __future__ import annotations

import errno
import os

from xenvbd.disk.locks import EXCLUSIVE, lock
from xenvbd.errors import ClaimError

RACES = 10                      # with a manager that removes it


def take(path: str) -> int:
    """A new description of the file, locked; it is made if there is none.

    Raises ClaimError (EINPROGRESS: a dead worker's last write has not landed; EBUSY: a worker has it), OSError."""
    for _ in range(RACES):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            lock(fd, path, EXCLUSIVE, 0, ours=True)
            if os.fstat(fd).st_nlink:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)            # it was removed before it was locked, and would be locked by nobody else
    raise ClaimError(errno.EAGAIN, "the fence file is removed again and again", path=path)

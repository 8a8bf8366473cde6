"""A claim: an image that stays open, and locked, for as long as its vbd exists.

The descriptor of a claim does no I/O.  Each description that does is opened through it, so no path is looked up again
and nothing that is renamed, removed or pointed elsewhere meanwhile can take the image's place.  Those descriptions have
a lock of their own, the fence (disk/locks.py): it tells when a dead worker's last write has landed, which the claim,
held by the manager, cannot.
"""
from __future__ import annotations

import errno
import os

from xenvbd.disk import locks, places, users
from xenvbd.disk.formats import looks_like
from xenvbd.disk.holders import is_shown
from xenvbd.disk.identity import Identity
from xenvbd.disk.image import Image, inspect
from xenvbd.errors import ClaimError, TargetError


class Claim:
    """One image; identity: what it is.  Its descriptor is closed with close() alone."""

    def __init__(self, path: str, fd: int, identity: Identity, *, read_only: bool, lock: bool = True) -> None:
        """fd: open, locked if lock, and the claim's own from here on."""
        self.path, self.fd, self.identity, self.read_only, self.lock = path, fd, identity, read_only, lock

    @classmethod
    def take(cls, path: str, where: int, *, read_only: bool, share: bool, lock: bool = True,
             expected: Identity | None = None, seize: bool = False) -> Claim:
        """Claim what the descriptor where stands for (places.find()), which stays the caller's.

        read_only, share: as for open_image(); lock: Properties.lock.  expected: what it must be (TargetError,
        ESTALE: it is another image); None: a new disk's, so that what this host does with it is looked at (users).
        seize: an earlier manager had it, whose worker may have a device for itself (O_EXCL).  Raises ClaimError (in
        use), TargetError."""
        alone = not (read_only or share)
        fd = _open(path, where, read_only=read_only, exclusive=alone, seize=seize)
        try:
            with places.named(path):
                places.make_blocking(fd, path, read_only=read_only)
                identity = Identity.of(fd)
                _compare(path, expected, identity)
                if lock:
                    locks.claim(fd, path, exclusive=alone, ours=seize)
                if expected is None and not share:      # else it has been a disk's already
                    users.check(fd, path, read_only=read_only, exclusive=alone)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, identity, read_only=read_only, lock=lock)

    @classmethod
    def inherited(cls, path: str, fd: int, expected: Identity, *, read_only: bool,
                  lock: bool = True) -> Claim:
        """The claim of an earlier manager whose descriptor we were given; it is closed if this raises TargetError."""
        try:
            with places.named(path):
                _compare(path, expected, Identity.of(fd))
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, expected, read_only=read_only, lock=lock)

    def image(self, *, read_only: bool, direct: bool | None, logical_block_size: int, writer: str | None,
              alone: bool) -> Image:
        """A new description for I/O, fenced as locks.fence() says (writer: its name; alone: its exclusive).

        Raises ClaimError (EINPROGRESS: what a dead worker had begun has not landed yet), TargetError."""
        fd = places.reopen(self.fd, self.path, read_only=read_only, exclusive=False, wait=False)
        try:
            with places.named(self.path):
                places.make_blocking(fd, self.path, read_only=read_only)
                if self.lock:
                    locks.fence(fd, self.path, exclusive=alone, name=writer)
                    _leave_to_fence_file(fd)
                return inspect(fd, self.path, read_only=read_only, direct=direct,
                               logical_block_size=logical_block_size)
        except BaseException:
            os.close(fd)
            raise

    def survey(self, *, read_only: bool, direct: bool | None, logical_block_size: int) -> tuple[Image, str]:
        """The facts alone, found out on a description that is closed again, and the format that the content looks like
        (formats.looks_like())."""
        fd = places.reopen(self.fd, self.path, read_only=read_only, exclusive=False, wait=False)
        try:
            with places.named(self.path):
                image = inspect(fd, self.path, read_only=read_only, direct=direct,
                                logical_block_size=logical_block_size)
                return image, looks_like(fd, image.size)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let others have it.  May take as long as its file system does."""
        locks.let_go(self.fd)


def _leave_to_fence_file(fd: int) -> None:
    """Unlock what its file system keeps itself: it hears nothing of a worker's end, and would keep it for good."""
    if not is_shown(fd):
        locks.unlock(fd)


def _open(path: str, where: int, *, read_only: bool, exclusive: bool, seize: bool) -> int:
    try:
        return places.reopen(where, path, read_only=read_only, exclusive=exclusive, wait=False)
    except ClaimError:
        if not (seize and exclusive):
            raise
        return places.reopen(where, path, read_only=read_only, exclusive=False, wait=False)


def _compare(path: str, expected: Identity | None, found: Identity) -> None:
    if expected is not None and (difference := expected.difference(found)):
        raise TargetError(errno.ESTALE, f"this is not the image that was opened: {difference}; put that one back, or, "
                          "if this one is to be served in its place, `xenvbd resume DISK --same-content`", path=path)

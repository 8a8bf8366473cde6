"""A claim: an image that stays open, and locked, for as long as its vbd exists.

The descriptor of a claim does no I/O.  Each description that does is opened through it, so no path is looked up again
and nothing that is renamed, removed or pointed elsewhere meanwhile can take the image's place.  Those descriptions have
a lock of their own, the fence (disk/locks.py): it tells when a dead worker's last write has landed, which the claim,
held by the manager, cannot.
"""
from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from xenvbd.disk import locks, places, qemu_locks, users
from xenvbd.disk.formats import looks_like
from xenvbd.disk.holders import DisksOf, is_shown, nobody
from xenvbd.disk.identity import Identity
from xenvbd.disk.image import Image, inspect
from xenvbd.errors import ClaimError, TargetError


@dataclass(frozen=True)
class Terms:
    """How an image is claimed.

    read_only, share: as for open_image(); lock: False gives up what keeps others out; guard: keep QEMU and its tools
    out too, from now on; expected: what it must be, None if that is not known; seize: an earlier manager had it, whose
    worker may have a device for itself (O_EXCL); patient: whoever has it on another host is about to let it go, so the
    lock may come later; disks_of: names the disks of our own workers in a refusal."""

    read_only: bool = False
    share: bool = False
    lock: bool = True
    guard: bool = False
    expected: Identity | None = None
    seize: bool = False
    patient: bool = False
    disks_of: DisksOf = field(default=nobody, compare=False)

    @property
    def is_new(self) -> bool:
        """Whether it has not been a disk's already, so that what this host does with it is to be looked at."""
        return self.expected is None and not self.seize

    @property
    def exclusive(self) -> bool:
        """Whether nobody else may have the image."""
        return not (self.read_only or self.share)


class Claim:
    """One image; identity: what it is.  Its descriptor is closed with close() alone."""

    def __init__(self, path: str, fd: int, identity: Identity, terms: Terms) -> None:
        """fd: open, locked, and the claim's own from here on."""
        self.path, self.fd, self.identity, self.terms = path, fd, identity, terms
        self.locked = False
        self._closing = threading.Lock()

    @classmethod
    def take(cls, path: str, where: int, terms: Terms) -> Claim:
        """Claim what the descriptor where stands for (places.find()), which stays the caller's.

        Raises ClaimError (in use, which names by whom), TargetError (ESTALE: it is not the image that it must be)."""
        fd = _open(path, where, terms)
        try:
            with places.named(path):
                places.make_blocking(fd, path, read_only=terms.read_only)
                identity = Identity.of(fd)
                _compare(path, terms.expected, identity)
                claim = cls(path, fd, identity, terms)
                claim.lock()
                if terms.is_new and not terms.share:
                    users.check(fd, path, read_only=terms.read_only, exclusive=terms.exclusive,
                                disks_of=terms.disks_of)
                return claim
        except BaseException:
            locks.let_go(fd)
            raise

    @classmethod
    def inherited(cls, path: str, fd: int, terms: Terms) -> Claim:
        """The claim of an earlier manager whose descriptor we were given; it is closed if this raises TargetError."""
        try:
            with places.named(path):
                identity = Identity.of(fd)
                _compare(path, terms.expected, identity)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, identity, terms)

    @contextlib.contextmanager
    def descriptor(self) -> Iterator[int]:
        """A way to the claim's description, for as long as the block lasts, whoever closes the claim meanwhile: its
        number may be another image's then.  ClaimError (ECANCELED): it is closed."""
        with self._closing:
            if self.fd < 0:
                raise ClaimError(errno.ECANCELED, "the disk was detached meanwhile", path=self.path)
            fd = os.dup(self.fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def lock(self) -> None:
        """Take what of the lock is not there yet.  Raises ClaimError, TargetError."""
        if self.locked or not self.terms.lock:
            return
        try:
            with self.descriptor() as fd:
                locks.claim(fd, self.path, exclusive=self.terms.exclusive, ours=self.terms.seize,
                            disks_of=self.terms.disks_of)
        except ClaimError as exc:
            if self.terms.patient and exc.errno == errno.EREMOTE:
                return
            raise
        if self.terms.guard:
            self.guard()
        self.locked = True

    def guard(self) -> None:
        """Keep QEMU and its tools out.  Raises ClaimError: one of them has it, or it is closed."""
        if self.terms.lock:
            with self.descriptor() as fd:
                qemu_locks.acquire(fd, self.path, read_only=self.terms.read_only, share=self.terms.share,
                                   disks_of=self.terms.disks_of)

    def unguard(self) -> None:
        """Let the guest's own QEMU in again.  Raises ClaimError: it is closed."""
        with self.descriptor() as fd:
            qemu_locks.release(fd)

    def image(self, *, read_only: bool, direct: bool | None, logical_block_size: int, writer: str | None,
              alone: bool) -> Image:
        """A new description for I/O, fenced as locks.fence() says (writer: its name; alone: its exclusive).

        Raises ClaimError (EINPROGRESS: what a dead worker had begun has not landed yet), TargetError."""
        self.lock()
        if self.terms.lock and not self.locked:
            raise ClaimError(errno.EINPROGRESS, "the host that the guest comes from has it still", path=self.path)
        with self.descriptor() as way:
            fd = places.reopen(way, self.path, read_only=read_only, exclusive=False, wait=False)
        try:
            with places.named(self.path):
                places.make_blocking(fd, self.path, read_only=read_only)
                if self.terms.lock:
                    locks.fence(fd, self.path, exclusive=alone, name=writer, ours=not self.terms.is_new,
                                disks_of=self.terms.disks_of)
                    _leave_to_fence_file(fd)
                return inspect(fd, self.path, read_only=read_only, direct=direct,
                               logical_block_size=logical_block_size)
        except BaseException:
            locks.let_go(fd)
            raise

    def survey(self, *, read_only: bool, direct: bool | None, logical_block_size: int) -> tuple[Image, str]:
        """The facts alone, found out on a description that is closed again, and the format that the content looks like
        (formats.looks_like())."""
        with self.descriptor() as way:
            fd = places.reopen(way, self.path, read_only=read_only, exclusive=False, wait=False)
        try:
            with places.named(self.path):
                image = inspect(fd, self.path, read_only=read_only, direct=direct,
                                logical_block_size=logical_block_size)
                return image, looks_like(fd, image.size)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let others have it.  May take as long as its file system does."""
        with self._closing:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            locks.let_go(fd)


def _leave_to_fence_file(fd: int) -> None:
    """Unlock what its file system keeps itself: it hears nothing of a worker's end, and would keep it for good."""
    if not is_shown(fd):
        locks.unlock(fd)


def _open(path: str, where: int, terms: Terms) -> int:
    try:
        return places.reopen(where, path, read_only=terms.read_only, exclusive=terms.exclusive, wait=False)
    except ClaimError:
        # A worker of 0.1 may have it for itself.  What else has it has come since, and is not joined.
        if not (terms.seize and terms.exclusive) or users.uses(os.fstat(where), disks_of=terms.disks_of):
            raise
        return places.reopen(where, path, read_only=terms.read_only, exclusive=False, wait=False)


def _compare(path: str, expected: Identity | None, found: Identity) -> None:
    if expected is not None and (difference := expected.difference(found)):
        raise TargetError(errno.ESTALE, f"this is not the image that was opened: {difference}; put that one back, or, "
                          "if this one is to be served in its place, `xenvbd resume DISK --same-content`", path=path)

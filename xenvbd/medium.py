"""The target of a vbd: claimed from realize to unrealize, looked at before the guest is told of it, and opened anew for
each worker that serves it.

All of it may take as long as the target's file system does, so it is for helper threads."""
from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from xenvbd import disk, others
from xenvbd.disk import Image, fencefile
from xenvbd.disk.claim import Claim, Terms
from xenvbd.disk.identity import Identity
from xenvbd.disk.locks import let_go
from xenvbd.errors import ClaimError, TargetError
from xenvbd.images import Images, Tenant
from xenvbd.others import Area
from xenvbd.properties import DiskFacts, Properties
from xenvbd.wire import close_all

FENCE_SECONDS = 0.02                    # between two looks whether a dead worker's last write has landed
LANDING = 0.75                          # of the time that opening may take: the rest is for saying what was waited for

T = TypeVar("T")
log = logging.getLogger("xenvbd")


@dataclass(frozen=True)
class Policy:
    """What the configuration says about every target.  allow: directories that images may lie in."""

    allow: Sequence[str] = ("/",)
    open_seconds: float = 8.0           # libxl gives a backend 10 s to reach InitWait


@dataclass(frozen=True)
class Wanted:
    """What is to be opened, and for whom.

    terms: how the image is claimed; fence: the path of its fence file; others: the disks of other backends."""

    properties: Properties
    policy: Policy
    engine: str
    images: Images
    tenant: Tenant
    terms: Terms
    fence: str = ""
    others: Sequence[Area] = ()

    @property
    def writer(self) -> str | None:
        """The name of the vbd whose writes are fenced."""
        properties = self.properties
        return None if properties.read_only else f"{properties.domid}/{properties.vdev.number}"

    def claim(self) -> Claim:
        """The claim of the image, taken if it is not held yet.  Raises OSError."""
        target = self.properties.target
        assert target is not None           # validate() has refused it
        return self.images.claim(self.tenant, target.path, self.terms, allow=self.policy.allow)


class Medium:
    """facts of the target; identity: of its image, if it is one; take(): the image's descriptors."""

    def __init__(self, facts: DiskFacts, identity: Identity | None = None, image: Image | None = None,
                 guard: int | None = None) -> None:
        """guard: of the fence file of a vbd that writes."""
        self.facts, self.identity, self._image, self._guard = facts, identity, image, guard

    @classmethod
    def survey(cls, wanted: Wanted) -> Medium:
        """Claim the target, and find out what it is, before a guest is told of it.  Raises OSError, also if the engine,
        which is a worker's to start, could not serve it, or if somebody else is at work on it."""
        if (sized := _sized(wanted)) is not None:
            return sized
        claim = wanted.claim()
        with claim.descriptor() as fd:
            others.check(wanted.others, fd, claim.path, read_only=wanted.properties.read_only)
        if wanted.images.alone(wanted.tenant):
            let_go(_patiently(lambda: _open(wanted, claim), _landing(wanted.policy)).fd)
        properties = wanted.properties
        image, content = claim.survey(read_only=properties.read_only, direct=properties.direct,
                                      logical_block_size=properties.logical_block_size)
        return cls(replace(DiskFacts.of(image), content=content), claim.identity)

    @classmethod
    def open(cls, wanted: Wanted) -> Medium:
        """Claim the target and open it for a worker.  Raises OSError; ClaimError (EINPROGRESS): somebody who is to go
        has it still."""
        return cls._open(wanted, _landing(wanted.policy))

    @classmethod
    def fenced(cls, wanted: Wanted, name: Callable[[], str], cancelled: threading.Event,
               waits: Callable[[str], None]) -> Medium:
        """As open(), for a disk that is served, by nobody at the moment: waits for the lock until it has it or is
        cancelled, whoever holds it, and says so each second, to the log and to waits().  name: of the disk, now."""
        started = said = time.monotonic()

        def patient(exc: ClaimError) -> bool:
            nonlocal said
            if time.monotonic() - said >= 1:
                said = time.monotonic()
                log.warning("%s: waiting for its image for %.0f s: %s", name(), said - started, exc)
                waits(f"its worker died, and the next waits for its image for {said - started:.0f} s: {exc}")
            return not cancelled.is_set()

        return cls._open(wanted, patient)

    @classmethod
    def _open(cls, wanted: Wanted, waits: Callable[[ClaimError], bool]) -> Medium:
        if (sized := _sized(wanted)) is not None:
            return sized
        claim = _patiently(wanted.claim, waits)
        wanted.images.turn(wanted.tenant)
        guard = _patiently(lambda: fencefile.take(wanted.fence), waits) if wanted.writer and wanted.fence else None
        try:
            image = _patiently(lambda: _open(wanted, claim), waits)
        except BaseException:
            close_all([] if guard is None else [guard])
            raise
        wanted.images.works(wanted.tenant)
        return cls(DiskFacts.of(image), claim.identity, image, guard)

    def take(self) -> list[int]:
        """The descriptors, if there are any: the image's, and the fence file's.  They are the caller's from now on."""
        image, guard, self._image, self._guard = self._image, self._guard, None, None
        return [fd for fd in (image.fd if image else None, guard) if fd is not None]

    def close(self) -> None:
        """Give back what take() would give.  The claim stays."""
        if self._image is not None:
            let_go(self._image.fd)
        if self._guard is not None:
            os.close(self._guard)
        self._image = self._guard = None


def refuse_shrunk(properties: Properties, published: DiskFacts, now: DiskFacts) -> None:
    """TargetError (ESTALE) if the target is shorter than what the guest was told."""
    if now.size < published.size:
        raise TargetError(errno.ESTALE, f"{properties.target} has shrunk: it has {now.size} bytes, and the guest was "
                          f"told of {published.size}; make it as large as it was, or detach and attach the disk")


def _sized(wanted: Wanted) -> Medium | None:
    """The medium of a target that is no image."""
    target = wanted.properties.target
    assert target is not None               # validate() has refused it
    disk.choose(target, wanted.engine)
    if target.scheme == "file":
        return None
    made = disk.open(target, read_only=wanted.properties.read_only,
                     logical_block_size=wanted.properties.logical_block_size)
    try:
        return Medium(DiskFacts.of(made))
    finally:
        made.close()


def _open(wanted: Wanted, claim: Claim) -> Image:
    properties = wanted.properties
    return claim.image(read_only=properties.read_only, direct=properties.direct,
                       logical_block_size=properties.logical_block_size, writer=wanted.writer,
                       alone=wanted.images.alone(wanted.tenant))


def _landing(policy: Policy) -> Callable[[ClaimError], bool]:
    """What a killed worker had begun to write is waited for, but not a live one's disk."""
    deadline = time.monotonic() + LANDING * policy.open_seconds
    return lambda exc: exc.errno == errno.EINPROGRESS and time.monotonic() < deadline


def _patiently(attempt: Callable[[], T], waits: Callable[[ClaimError], bool]) -> T:
    """The result of attempt(), which is made again as long as waits() says so of what it raises."""
    while True:
        try:
            return attempt()
        except ClaimError as exc:
            if not waits(exc):
                raise
        time.sleep(FENCE_SECONDS)

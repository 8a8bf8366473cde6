"""The open target of a vbd while the manager holds it: from realize until a worker gets it."""
from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from xenvbd import disk
from xenvbd.disk import Image
from xenvbd.disk.formats import looks_like
from xenvbd.errors import ClaimError
from xenvbd.properties import DiskFacts, Properties

FENCE_SECONDS = 0.02                    # between two looks whether a dead worker's last write has landed

log = logging.getLogger("xenvbd")


@dataclass(frozen=True)
class Policy:
    """What the configuration says about every target.  allow: directories that images may lie in."""

    allow: Sequence[str] = ("/",)
    open_seconds: float = 8.0           # libxl gives a backend 10 s to reach InitWait


class Medium:
    """facts of the target, and its descriptor if it is an image: locked, and the only one of its description."""

    def __init__(self, facts: DiskFacts, image: Image | None = None) -> None:
        self.facts, self._image = facts, image

    @classmethod
    def open(cls, properties: Properties, policy: Policy, engine: str = "auto", *, look: bool = False) -> Medium:
        """Open and lock the target; may take as long as its file system does.  look: at what is in it, which is for
        an administrator to know.  Raises OSError, also if the engine, which is a worker's to start, could not serve
        it."""
        deadline = time.monotonic() + policy.open_seconds

        def landing(exc: ClaimError) -> bool:
            # What a killed worker had begun to write is waited for, but not a live one's disk.
            return exc.errno == errno.EINPROGRESS and time.monotonic() < deadline

        medium = cls._open(properties, policy, engine, landing)
        if look and medium._image is not None:
            medium.facts = replace(medium.facts, content=looks_like(medium._image.fd, medium._image.size))
        return medium

    @classmethod
    def fenced(cls, properties: Properties, policy: Policy, engine: str, name: str, cancelled: threading.Event,
               waits: Callable[[str], None]) -> Medium:
        """As open(), for a disk that is served, by nobody at the moment: waits for the lock until it has it or is
        cancelled, whoever holds it, and says so each second, to the log and to waits()."""
        started = said = time.monotonic()

        def patient(exc: ClaimError) -> bool:
            nonlocal said
            if time.monotonic() - said >= 1:
                said = time.monotonic()
                log.warning("%s: waiting for its image for %.0f s: %s", name, said - started, exc)
                waits(f"its worker died, and the next waits for its image for {said - started:.0f} s: {exc}")
            return not cancelled.is_set()

        return cls._open(properties, policy, engine, patient)

    @classmethod
    def _open(cls, properties: Properties, policy: Policy, engine: str, waits: Callable[[ClaimError], bool]) -> Medium:
        target = properties.target
        assert target is not None           # validate() has refused it
        disk.choose(target, engine)
        if target.scheme == "file":
            image = _open_image(target.path, properties, policy, waits)
            return cls(DiskFacts.of(image), image)
        made = disk.open(target, read_only=properties.read_only,
                         logical_block_size=properties.logical_block_size)
        try:
            return cls(DiskFacts.of(made))
        finally:
            made.close()

    def take(self) -> list[int]:
        """The descriptor, if there is one; it is the caller's from now on."""
        image, self._image = self._image, None
        return [] if image is None else [image.fd]

    def close(self) -> None:
        if self._image is not None:
            self._image.close()
            self._image = None


def _open_image(path: str, properties: Properties, policy: Policy, waits: Callable[[ClaimError], bool]) -> Image:
    """Open and lock; waits says whether to try again."""
    while True:
        try:
            return disk.open_image(
                path, read_only=properties.read_only, direct=properties.direct, allow=policy.allow,
                share=properties.share, fence=f"{properties.domid}/{properties.vdev.number}",
                logical_block_size=properties.logical_block_size)
        except ClaimError as exc:
            if not waits(exc):
                raise
        time.sleep(FENCE_SECONDS)

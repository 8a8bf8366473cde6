"""One disk in its worker: opened and started by a helper thread, since all of that may take its time, or hang: the
image's storage, and the port of a worker that was killed, which the kernel gives back a little late.
"""
from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable
from typing import Any

from xenvbd import disk
from xenvbd.dataplane import DataPlane, Settings
from xenvbd.errors import Error
from xenvbd.features import Agreement
from xenvbd.hv.ops import Hypervisor
from xenvbd.target import parse as parse_target
from xenvbd.wire import Message

log = logging.getLogger("xenvbd.worker")
Finish = Callable[[dict[str, Any] | OSError], None]


class Plane:
    """Its data plane and target, from the order to connect it until nothing is left of it.

    started: it serves, or did; rings: io_urings that it is about to take; orphaned: whoever ordered it has gone before
    it was started; later: orders that wait until it has started, or, if it does not stay, until it has gone."""

    def __init__(self, key: str, rings: int) -> None:
        self.key, self.rings = key, rings
        self.started = self.orphaned = False
        self.stopping: list[Finish] = []
        self.later: list[Callable[[], None]] = []
        self._plane: DataPlane | None = None
        self._target: disk.Disk | None = None

    @property
    def plane(self) -> DataPlane:
        """Once it is started."""
        assert self._plane is not None
        return self._plane

    def told(self) -> dict[str, Any]:
        """What the manager is told of how it serves."""
        assert self._target is not None
        return {"engine": self._target.engine, "persistent": self.plane.persistent}

    def open(self, hypervisor: Hypervisor, message: Message, options: dict[str, Any]) -> OSError | None:
        """In a helper thread: do what connect asks for, with a target opened so; why not, if it cannot be.  Of the
        message nothing is left open."""
        try:
            self._open(hypervisor, message, Agreement.from_json(message.body["agreement"]), options)
        except OSError as exc:
            return exc
        except Exception as exc:
            log.exception("%s cannot be connected", self.key)
            return Error(errno.EPROTO, f"the worker cannot connect: {exc!r}")
        finally:
            message.close()
        return None

    def destroy(self) -> None:
        """Let go of everything.  May block as long as closing the target does."""
        self.plane.destroy()
        assert self._target is not None
        self._target.close()

    def _open(self, hypervisor: Hypervisor, message: Message, agreement: Agreement, options: dict[str, Any]) -> None:
        body, queues = message.body, len(agreement.queues)
        image, guard = (message.fds.pop(0) if int(body["image"]) > number else None for number in range(2))
        identity = _identity(image, body.get("image-id"))
        target = disk.open(parse_target(body["target"]), fd=image, guard=guard, **options)
        try:
            plane = DataPlane(hypervisor, target, name=body["name"], image=identity,
                              settings=Settings(**body["settings"]))
            try:
                plane.start(agreement, message.fds[:queues], message.fds[queues:2 * queues], message.fds[2 * queues:],
                            adopt=bool(body.get("adopt")))
            except BaseException:
                plane.destroy()
                raise
        except BaseException:
            target.close()
            raise
        self._plane, self._target = plane, target


def _identity(image: int | None, told: list[int] | None) -> tuple[int, int]:
    """Device and inode for the journal, as the manager told them; zeros if it is no file.  A disk that 0.1 has recorded
    comes without, and has what the descriptor says."""
    if told is not None:
        return int(told[0]), int(told[1])
    if image is None:
        return 0, 0
    status = os.fstat(image)
    if stat.S_ISBLK(status.st_mode):
        return status.st_rdev, 0            # udev may have made its node anew
    return status.st_dev, status.st_ino

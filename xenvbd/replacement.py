"""Replacing the worker of a domain by a new one of this version, behind the guest's back."""
from __future__ import annotations

import errno
import os
from typing import Any

from xenvbd import __version__, journal
from xenvbd.backend import Backend
from xenvbd.device import Device
from xenvbd.errors import ClaimError, Error
from xenvbd.show import stalled, waiting_for
from xenvbd.xenbus import Plane


class Replacement:
    """Begun by being made.  Error (ENOENT: the domain has no worker), ClaimError (it must not be): nothing is done."""

    def __init__(self, backend: Backend, domid: int) -> None:
        self._backend, self._domid = backend, domid
        self._planes = [device for device in backend.served(domid) if device.view.plane is not Plane.NONE]
        for device in self._planes:
            refuse_what_would_be_lost(device)
        self._old = backend.workers.replace(domid)

    @property
    def done(self) -> bool:
        """Whether all disks of the domain that were served are again, by another worker."""
        return not (self._old.alive or self._waiting)

    @property
    def missing(self) -> str:
        """What it waits for."""
        if self._old.alive:
            return f"process {self._old.pid} still hands over"
        return "; ".join(f"{device.name}: {device.adopting or device.view.plane.value}" for device in self._waiting)

    @property
    def result(self) -> dict[str, Any] | Error:
        """What became of each disk; an Error (EIO) if one that was served is not."""
        worker = self._backend.workers.by_domid.get(self._domid)
        if lost := [device for device in self._planes if not (device.gone or device.view.plane is Plane.RUNNING)]:
            return Error(errno.EIO, "its worker was replaced, and it is not served: "
                         f"{waiting_for(lost[0])}{_others(lost[1:])}", disk=lost[0].name)
        return {"domid": self._domid, "pid": worker.pid if worker else None, "was": self._old.pid,
                "version": __version__, "disks": [device.name for device in self._planes if not device.gone]}

    @property
    def _waiting(self) -> list[Device]:
        return [device for device in self._planes
                if device.view.plane not in (Plane.RUNNING, Plane.NONE) and not device.gone]


def _others(lost: list[Device]) -> str:
    return f"; neither are {', '.join(device.name for device in lost)}" if lost else ""


def refuse_what_would_be_lost(device: Device) -> None:
    """ClaimError if no other worker could go on with this disk."""
    if not device.adoptable:
        raise ClaimError(errno.EBUSY, "its content is in its worker's memory and would be lost: detach it first",
                         disk=device.name)
    if device.stalls.requests:
        raise ClaimError(errno.EBUSY, f"{stalled(device)}: a worker cannot end before its storage has answered, and "
                         "would keep all disks of the domain meanwhile", disk=device.name)
    if device.properties is not None and device.properties.is_image and not device.holding.claimed:
        raise ClaimError(errno.EBUSY, "its worker has the only way to its image: "
                         f"{device.holding.trouble or 'it is being claimed again'}", disk=device.name)
    for queue in range(len(device.agreement.queues) if device.agreement else 0):
        path = device.host.runtime.journal(device.key, queue)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            version, writer = journal.version_of(fd)
        finally:
            os.close(fd)
        if version and not journal.readable(version):
            raise ClaimError(errno.EBUSY, f"its journal is of version {version} (xenvbd {writer}), and a worker of "
                             f"this version reads {journal.OLDEST} to {journal.VERSION}: detach it first, or leave it "
                             "as it is",
                             disk=device.name, path=path)

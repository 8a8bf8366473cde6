"""Which of the disks that are served DOMAIN:VDEV means: a name is what the store says now, never what was kept."""
from __future__ import annotations

import errno
from collections.abc import Mapping

from xenvbd import domains
from xenvbd.claims import Key
from xenvbd.device import Device
from xenvbd.errors import NoSuchDisk, PropertyError
from xenvbd.names import Names
from xenvbd.store import Store
from xenvbd.text import cited


class Lookup:
    """Over the devices of a manager."""

    def __init__(self, store: Store, names: Names, devices: Mapping[Key, Device]) -> None:
        self._store, self._names, self._devices = store, names, devices

    def disk(self, wanted: str) -> Device:
        """The device of DOMAIN:VDEV, domain and vdev by name or number.  NoSuchDisk, and as domain()."""
        domain, _, disk = wanted.rpartition(":")
        for device in self.domain(domain):
            if disk in (str(device.devid), domains.vdev_name(device.devid)):
                return device
        raise NoSuchDisk(errno.ENOENT, f"there is no disk {cited(wanted)}; `xenvbd list` shows those there are")

    def domain(self, wanted: str) -> list[Device]:
        """The devices of the domain that a number, or a name as it is now, means; of one that is gone, by its last
        name, if no domain has that now.  NoSuchDisk; PropertyError if several have the name."""
        self._names.settle()
        if domains.is_number(wanted):
            return self.of(int(wanted))
        try:
            domid = domains.find(self._store, wanted)
        except NoSuchDisk:
            if gone := self._of_gone(wanted):
                return gone
            raise
        handle = domains.identity(self._store, domid)
        return [device for device in self.of(domid) if device.domain == handle]

    def of(self, domid: int) -> list[Device]:
        """The devices of a number, those too of a domain that had it before."""
        return [device for (_, other, _), device in self._devices.items() if other == domid]

    def _of_gone(self, wanted: str) -> list[Device]:
        found = [device for device in self._devices.values() if self._names.of(device.domid, device.domain) == wanted
                 and device.domain != domains.identity(self._store, device.domid)]
        if len({device.domid for device in found}) > 1:
            numbers = " and ".join(str(domid) for domid in sorted({device.domid for device in found}))
            raise PropertyError(errno.ENOTUNIQ, f"domains {numbers}, which are gone, were all named {cited(wanted)}: "
                                "expected a name that one had; give the number")
        return found

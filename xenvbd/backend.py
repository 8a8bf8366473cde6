"""All vbds of a host: finds those that toolstacks make, keeps their devices and the domains' workers.

One watch a kind sees every backend area (a driver domain may have 128 watches); what fires only marks a
device, so a guest that writes without end costs memory for one mark (XSA-349), and its turn comes when the
others had theirs.
"""
from __future__ import annotations

import errno
import functools
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from xenvbd import domains, features, libxl, rivals
from xenvbd.claims import Claims, FindRival, Key
from xenvbd.device import Device
from xenvbd.errors import ClaimError, Error, NoSuchDisk, StoreError
from xenvbd.helpers import Helpers
from xenvbd.host import Host, Options
from xenvbd.images import Images
from xenvbd.inventory import Inventory
from xenvbd.lookup import Lookup
from xenvbd.loop import Loop
from xenvbd.medium import Policy
from xenvbd.names import Names
from xenvbd.properties import Properties
from xenvbd.record import Record
from xenvbd.runtime import Runtime
from xenvbd.store import Store
from xenvbd.trace import Limiter, event
from xenvbd.workers import Worker, Workers
from xenvbd.xenbus import XenbusState, parse_state

AGAIN_SECONDS = 1.0                 # after a transaction that others kept in conflict
RELEASE_SECONDS = 8.0               # for a file system to give up a lock
REFRESHES = 50                      # of a device in a second; then it waits for the next

log = logging.getLogger("xenvbd")


class Backend:
    """The devices of a manager.  Everything runs in its loop."""

    def __init__(self, loop: Loop, store: Store, runtime: Runtime, workers: Workers, policy: Policy,
                 kinds: Sequence[str], options: Callable[..., Options], *,
                 channels: Callable[[int, int], list[int]], rival: FindRival = rivals.find,
                 images: Images | None = None) -> None:
        """kinds: the areas to claim, backend/KIND; channels, images: see host.Host; rival: finds another backend, as
        rivals.find()."""
        self.loop, self.store, self.workers = loop, store, workers
        self._wanted = tuple(kinds)
        self.claims = Claims(loop, store, store.domid, str(runtime.path), rival)
        self.devices: dict[Key, Device] = {}
        self.names = Names(store, self._renamed)
        self.lookup = Lookup(store, self.names, self.devices)
        self._waiters: dict[Device, list[Callable[[], bool]]] = {}
        self.host = Host(loop, store, runtime, Helpers(loop), policy, workers.get, channels, options,
                         self.names.of, store.domid,
                         images=images or Images(), disk_name=self._name_of_key, serves=self._serves,
                         disks_of=self._disks_of,
                         dirty=self._mark_device, changed=self._changed, destroyed=self._destroyed)
        self._dirty: dict[Key, None] = {}
        self._scans: dict[tuple[str, int | None], None] = {}
        self._check_domains = False
        self._scheduled = False
        self.ready = False                  # what an earlier manager served was taken over
        self._orphans: set[Key] = set()
        self._watched: set[str] = set()
        self._turns: dict[Key, tuple[int, int]] = {}
        self._limiter = Limiter()           # of conflicts in the store, which a guest can keep up
        workers.on_event = self._worker_event
        workers.on_exit = self._worker_exit

    # Life

    def start(self) -> None:
        """Watch, take over what an earlier manager served, and then everything new.  StoreError, ClaimError."""
        self.claims.take(self._wanted)
        event("xen_bus_enumerate", path=self._root())
        for kind in self.kinds:
            self._watch_kind(kind)
        for special in ("@introduceDomain", "@releaseDomain"):
            self.store.watch(special, lambda path: self._domains_changed())
        self.store.write(self._marker, str(os.getpid()))
        Inventory(self.workers.find_all(), self._take_over, self.loop)

    def claim(self, kinds: Sequence[str]) -> None:
        """Claim these kinds from now on, and look again at what was refused; disks that are served stay so.
        ClaimError, and all is as before, if a rival has one."""
        self.claims.take(kinds)
        for kind in kinds:
            if kind not in self._watched:
                self._watch_kind(kind)
            self._scans[kind, None] = None
        self._domains_changed()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is claimed."""
        return self.claims.kinds

    def store_returned(self) -> None:
        """The connection to the store is there again, and all watches fire: look at everything."""
        if not self.store.exists(self._marker):
            log.error("xenstored has lost its tree: the disks go on being served, and are let go by detach --force")
            self._orphans = set(self.devices)
            self.store.write(self._marker, str(os.getpid()))
            self.claims.renew()
        for key, device in list(self.devices.items()):
            device.run()
            self.mark(key)
        self._domains_changed()

    def close(self, *, leave_claims: bool = False) -> None:
        """Leave everything as it is: workers serve on.  leave_claims: and the images' claims, which stay open."""
        for device in self.devices.values():
            device.close()
        for kind in sorted(self._watched):
            event("xen_bus_remove_watch", path=self._root(kind))
            event("xen_bus_unrealize", kind=kind, path=self._root(kind))
        self.workers.close()
        if not leave_claims:
            self.host.images.close()

    # Devices

    def find(self, text: str) -> Device:
        """The device of DOMAIN:VDEV, see Lookup.disk()."""
        return self.lookup.disk(text)

    def create(self, properties: Properties, engine: str = "") -> Device:
        """Attach a disk whose areas are to be made by us.  NoSuchDisk, ClaimError."""
        kind, domid, devid = features.OWN_KIND, properties.domid, properties.vdev.number
        for other in {*self.kinds, kind}:
            if (other, domid, devid) in self.devices:
                raise ClaimError(errno.EEXIST, "the vdev is taken; `xenvbd list` shows by what",
                                 disk=self.devices[other, domid, devid].name)
        if self.store.exists(features.frontend_path(domid, devid)):
            raise ClaimError(errno.EEXIST, "the vdev is taken by a disk of another backend",
                             path=features.frontend_path(domid, devid))
        if kind not in self._watched:
            self._watch_kind(kind)
        return self._new((kind, domid, devid), properties, engine)

    def served(self, domid: int) -> list[Device]:
        """The devices of a domain."""
        return self.lookup.of(domid)

    def wait(self, device: Device, attempt: Callable[[], bool]) -> None:
        """Call attempt() whenever something has happened to the device, until it says that it is done."""
        self._waiters.setdefault(device, []).append(attempt)

    def stop_waiting(self, device: Device, attempt: Callable[[], bool]) -> None:
        """Take a wait() back."""
        left = [waiter for waiter in self._waiters.pop(device, ()) if waiter is not attempt]
        if left:
            self._waiters[device] = left

    def mark(self, key: Key) -> None:
        """Look at this device, or area, in the next round."""
        self._dirty[key] = None
        self._schedule()

    def _new(self, key: Key, properties: Properties | None = None, engine: str = "") -> Device:
        """A device that is being realized."""
        domid = key[1]
        identity = domains.identity(self.store, domid)
        if identity is None:
            raise NoSuchDisk(errno.ENOENT, f"there is no domain {domid}")
        self.names.follow(domid, identity)
        device = Device(self.host, *key, domain=identity, properties=properties, engine=engine)
        self._begin(key, device, device.realize)
        return device

    def _begin(self, key: Key, device: Device, begin: Callable[[], None]) -> None:
        """Keep a device, unless not even its beginning can be made."""
        event("xen_block_device_create", disk=device.name, number=device.devid)
        self.devices[key] = device
        self.claims.forget(key)
        try:
            begin()
        except OSError:
            device.close()
            self.devices.pop(key, None)
            self._forget_name(device.domid)
            raise

    def _destroyed(self, device: Device) -> None:
        key = (device.areas.kind, device.domid, device.devid)
        self.devices.pop(key, None)
        self._turns.pop(key, None)
        self._orphans.discard(key)
        event("xen_block_device_destroy", disk=device.name, number=device.devid)
        event("xen_bus_device_cleanup", disk=device.name, path=device.areas.backend)
        if not self.served(device.domid):
            self.workers.dismiss(device.domid)
        self._forget_name(device.domid)
        self.mark(key)                      # a new area of the same name may be there already

    def _forget_name(self, domid: int) -> None:
        if not self.served(domid):
            self.names.forget(domid)

    def _renamed(self, domid: int) -> None:
        for device in self.served(domid):
            device.renamed()

    def _changed(self, device: Device) -> None:
        """Tell those who wait for the device; one that is done says True."""
        left = [waiter for waiter in self._waiters.pop(device, ()) if not waiter()]
        if left:
            self._waiters.setdefault(device, []).extend(left)

    def _disks_of(self, pid: int, status: os.stat_result) -> list[str]:
        """The disks on an image that a worker serves.  In a helper thread: of what there is at the moment."""
        domids = {domid for domid, worker in list(self.workers.by_domid.items()) if worker.pid == pid}
        return [device.name for device in list(self.devices.values())
                if device.domid in domids and device.holding.identity is not None
                and device.holding.identity.is_of(status)]

    def _serves(self, area: Key) -> bool:
        """Also one that is not looked at yet; what was left to a rival is the rival's."""
        return area in self.devices or (area[0] in self.claims.kinds and area not in self.claims.refused)

    def _name_of_key(self, key: str) -> str:
        return next((device.name for device in self.devices.values() if device.key == key), key)

    def _mark_device(self, device: Device) -> None:
        self.mark((device.areas.kind, device.domid, device.devid))

    # What fires

    def _watch_kind(self, kind: str) -> None:
        self._watched.add(kind)
        root = self._root(kind)
        event("xen_bus_realize", kind=kind, path=root)
        event("xen_bus_add_watch", path=root)
        self.store.watch(root, lambda path: self._fired(kind, path.removeprefix(root).split("/")[1:]))

    def _fired(self, kind: str, parts: list[str]) -> None:
        """parts: the path below backend/KIND: domid, devid, node, as far as there are any."""
        numbers = [int(part) for part in parts[:2] if part.isascii() and part.isdecimal()]
        if len(numbers) == 2:
            self.mark((kind, numbers[0], numbers[1]))
        elif len(numbers) == len(parts[:2]):
            self._scans[kind, numbers[0] if numbers else None] = None
            self._schedule()

    def _domains_changed(self) -> None:
        self._check_domains = True
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self.ready:
            self._scheduled = True
            self.loop.soon(self._round)

    def _round(self) -> None:
        """One turn for everything that is marked.  What the store cannot answer now stays marked."""
        self._scheduled = False
        if self._check_domains and self._try("domains", self._look_at_domains):
            self._check_domains = False
        for scan in list(self._scans):
            if self._try("/".join(map(str, scan)), functools.partial(self._scan, *scan)):
                del self._scans[scan]
        dirty, self._dirty = self._dirty, {}
        for key in dirty:
            if not self._try("/".join(map(str, key)), functools.partial(self._visit, key)):
                self._dirty[key] = None

    def _try(self, what: str, turn: Callable[[], object]) -> bool:
        """Whether the turn could be taken; if not, there is another in a while, or when the store is back."""
        if not self.store.connected:
            return False
        try:
            turn()
        except StoreError as exc:
            if self.store.connected:
                self._limiter.log(log, logging.WARNING, "%s: %s", what, exc)
                self.loop.later(AGAIN_SECONDS, self._schedule)
            return False
        return True

    def _scan(self, kind: str, domid: int | None) -> None:
        """Mark every area of a kind, or of one domain of it, and every device there that may have none now."""
        event("xen_bus_type_enumerate", kind=kind)
        root = self._root(kind)
        for key in self.devices:
            if key[0] == kind and domid in (None, key[1]):
                self._dirty[key] = None
        for child in self._numbers(root) if domid is None else [domid]:
            for devid in self._numbers(f"{root}/{child}"):
                self._dirty[kind, child, devid] = None

    def _numbers(self, path: str) -> list[int]:
        try:
            return [int(name) for name in self.store.ls(path) if name.isascii() and name.isdecimal()]
        except StoreError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return []

    def _visit(self, key: Key) -> None:
        device = self.devices.get(key)
        if device is None:
            self._consider(key)
        elif self._in_turn(key) and not self._orphaned(device, key):
            event("xen_device_backend_changed", disk=device.name)
            device.refresh()

    def _in_turn(self, key: Key) -> bool:
        """Whether the device may be looked at again in this second; else it is in the next."""
        second = int(time.monotonic())
        last, count = self._turns.get(key, (second, 0))
        if last == second and count >= REFRESHES:
            if count == REFRESHES:
                self.loop.later(1.0, lambda: self.mark(key))
                self._turns[key] = (second, count + 1)
            return False
        self._turns[key] = (second, count + 1 if last == second else 1)
        return True

    def _orphaned(self, device: Device, key: Key) -> bool:
        """Whether the area is missing because xenstored has lost it, not because somebody removed it."""
        if key in self._orphans and not self.store.exists(device.areas.backend):
            return True
        self._orphans.discard(key)
        return False

    def _consider(self, key: Key) -> None:
        """An area without a device: a toolstack's new one, or none of our business."""
        kind, domid, devid = key
        area = features.backend_path(self.host.backend_domid, kind, domid, devid)
        state = parse_state(self.store.get(f"{area}/{features.STATE}"))
        if state is None:
            self.claims.forget(key)
        if state is not XenbusState.INITIALISING or self.store.get(f"{area}/{features.ONLINE}") != b"1":
            return
        if kind not in self.kinds or key in self.claims.refused:
            return                      # it is only watched for the sake of disks that are served
        event("xen_bus_backend_create", kind=kind, path=area)
        try:
            self.claims.check(key)
            self._new(key)
        except (ClaimError, NoSuchDisk) as exc:
            self.claims.leave(key, str(exc))

    def _stand_in(self) -> None:
        """Let libxl hot-plug disks of ours into guests that have no device model of its own."""
        if "qdisk" in self.kinds and self.host.backend_domid == 0:
            for domid in self._numbers("/local/domain"):
                libxl.stand_in(self.store, domid)

    def _look_at_domains(self) -> None:
        event("xen_bus_cleanup", path=self._root())
        self._stand_in()
        for domid in {key[1] for key in self.devices if key not in self._orphans}:
            now = domains.identity(self.store, domid)
            for device in self.served(domid):
                if now != device.domain:
                    device.domain_gone()

    def _root(self, kind: str = "") -> str:
        """Where the areas of all kinds, or of one, are."""
        return f"{domains.path(self.host.backend_domid)}/backend/{kind}".rstrip("/")

    @property
    def _marker(self) -> str:
        """A node that is there as long as xenstored keeps its tree."""
        return f"{domains.path(self.host.backend_domid)}/data/xenvbd"

    # Workers

    def _worker_event(self, domid: int, body: dict[str, Any]) -> None:
        for device in self.served(domid):
            if device.key == body.get("disk"):
                device.worker_event(str(body.get("event")), str(body.get("detail")))

    def _worker_exit(self, worker: Worker) -> None:
        for device in self.served(worker.domid):
            device.worker_lost(worker)

    # Taking over

    def _take_over(self, serving: set[str], silent: set[int]) -> None:
        """The workers have said which disks they serve, but for those of the silent domains."""
        def adopt_all() -> None:
            for key, fields in self.host.runtime.records():
                if (record := _record(key, fields)) is not None:
                    wanted = record.properties.domid in silent and record.agreement is not None
                    self._adopt(record, key in serving or wanted)
                serving.discard(key)

        try:
            done = self._try("taking over", adopt_all)
        except OSError as exc:                  # no descriptor or no process for a worker, say
            log.error("not everything is taken over yet: %s", exc)
            done = False
        if not done:
            self.loop.later(AGAIN_SECONDS, lambda: self._take_over(serving, silent))
            return
        for key in serving:
            self._let_go(key)
        for close in self.host.images.disinherit({device.key for device in self.devices.values()}):
            self.host.helpers.run("letting go of an image that no disk has", close, lambda result: None,
                                  seconds=RELEASE_SECONDS, dispose=lambda result: None, must=True)
        self.ready = True
        self._schedule()

    def _adopt(self, record: Record, serving: bool) -> None:
        """Go on with a device, also if it is only to end it: its domain, or its area, may have gone meanwhile."""
        key = (record.kind, record.properties.domid, record.properties.vdev.number)
        if key in self.devices:
            return
        if record.kind not in self._watched:
            self._watch_kind(record.kind)
        now = domains.identity(self.store, key[1])
        self.names.follow(key[1], record.domain, last=record.name.rpartition(":")[0])
        device = Device(self.host, *key, domain=record.domain)
        self._begin(key, device, lambda: device.adopt(record, serving))
        log.info("%s: taken over, %s", device.name, device.view.backend.label)
        if now != record.domain:
            device.domain_gone()

    def _let_go(self, key: str) -> None:
        """End a plane whose disk is not there any more."""
        domid = int(key.split("-")[-2])
        log.warning("%s: its worker serves it, but it is gone: disconnected", key)
        if worker := self.workers.by_domid.get(domid):      # it may have ended meanwhile, and its planes with it
            worker.call("disconnect", lambda result: None, disk=key)


def _record(key: str, fields: dict[str, Any]) -> Record | None:
    """The record, if this version can read it."""
    try:
        return Record.from_json(fields)
    except (KeyError, TypeError, ValueError, Error) as exc:
        reason = exc if isinstance(exc, Error) else repr(exc)
        log.error("%s: its record cannot be read, it is left alone: %s", key, reason)
        return None

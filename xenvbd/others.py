"""Other Xen backends that have an image: xen-blkback opens it without exclusivity, QEMU's qdisk and tapdisk without a
lock, so that neither O_EXCL nor /proc/locks shows them.

areas() reads xenstore and sysfs, in the manager's thread; check() looks at files, which may take as long as their
storage, in a helper's.  What an area names is told by device and inode.  A driver domain sees its own areas only."""
from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xenvbd import domains, features, text
from xenvbd.disk import mounts, users
from xenvbd.errors import ClaimError, StoreError
from xenvbd.store import Store

MAX_AREAS = 4096                        # that are looked at; a host has no more disks
NO_DISKS = ("9pfs", "console", "pci", "pvcalls", "qusb", "vfb", "vif", "vkbd", "vsnd", "vtpm", "vusb")
BACKENDS = {"vbd": "the kernel's xen-blkback", "qdisk": "QEMU", "vbd3": "tapdisk"}
PHYSICAL_DEVICE = "physical-device"     # of the hotplug scripts: "fd:1", in hexadecimal
KERNEL_DEVICES = "sys/bus/xen-backend/devices"
REMOTE = re.compile(r"nfs|cifs|smb|ceph|glusterfs|9p|afs|fuse")

Key = tuple[str, int, int]              # kind, domid, devid


@dataclass(frozen=True)
class Area:
    """A disk of another backend: its name ("web1:xvda"), what it names, and whether its guest may write."""

    kind: str
    domid: int
    devid: int
    name: str
    path: str
    number: int                         # of the block device; 0 if it does not say
    writes: bool

    def __str__(self) -> str:
        backend = BACKENDS.get(self.kind, f"the backend of {self.kind}")
        return f"{self.name}, served by {backend} (backend/{self.kind}/{self.domid}/{self.devid})"


def areas(store: Store, backend_domid: int, skip: Callable[[Key], bool], *, root: str = "/") -> list[Area]:
    """The disks of this domain's other backends; skip: says which areas are ours.  root: of /sys.

    Areas that come and go meanwhile are left out, and those of domains that are gone, as Xen's own script does.
    Raises StoreError if the store is gone."""
    base = f"{domains.path(backend_domid)}/backend"
    keys = [key for key in itertools.islice(_keys(store, base), MAX_AREAS) if not skip(key)]
    numbers = _kernel_devices(root)
    return [area for key in keys if (area := _area(store, backend_domid, key, numbers))]


def check(found: Sequence[Area], fd: int, path: str, *, read_only: bool,
          allowed: Callable[[int], bool] = lambda domid: False, root: str = "/") -> None:
    """Refuse an image (an open description) that one of these has: for a reader only those whose guest may write, as
    Xen's own script does.  allowed: the domains that may share it.  Raises ClaimError (EBUSY) that names the disk."""
    status = os.fstat(fd)
    for area in found:
        if (area.writes or not read_only) and not allowed(area.domid) and _has(area, status, root):
            raise ClaimError(errno.EBUSY, f"in use: {area}; detach it there first (xl block-detach {area.domid} "
                             f"{area.devid}), or let both share it (access=w!)", path=path)


# Reading the areas.

def _keys(store: Store, base: str) -> Iterator[Key]:
    for kind in _children(store, base):
        for domid in _children(store, f"{base}/{kind}") if kind not in NO_DISKS else []:
            for devid in _children(store, f"{base}/{kind}/{domid}"):
                if domains.is_number(domid) and devid.isdecimal() and len(devid) <= 10:
                    yield kind, int(domid), int(devid)


def _area(store: Store, backend_domid: int, key: Key, numbers: dict[tuple[int, int], int]) -> Area | None:
    kind, domid, devid = key
    base = features.backend_path(backend_domid, kind, domid, devid)
    params, number, mode = (_get(store, f"{base}/{name}") for name in (features.PARAMS, PHYSICAL_DEVICE, features.MODE))
    path = _path(params)
    device = _number(number) or (numbers.get((domid, devid), 0) if kind == "vbd" else 0)
    if not (path or device) or _is_gone(store, domid):
        return None                     # an empty drive, or none of a disk's
    name = domains.disk_name(domains.name(store, domid), devid)
    return Area(kind, domid, devid, name, path, device, mode != "r")


def _is_gone(store: Store, domid: int) -> bool:
    try:
        return not store.exists(domains.path(domid))
    except StoreError as error:
        if error.errno != errno.EACCES:
            raise
        return False


def _path(params: str) -> str:
    """The path of a params node: "/path", "aio:/path", or a name in /dev; empty for what has none."""
    stripped = re.sub(r"\A[a-z][a-z0-9]*:", "", params)
    if not stripped or "\0" in stripped:
        return ""
    return stripped if stripped.startswith("/") else f"/dev/{stripped}"


def _number(value: str) -> int:
    """The device of "fd:1"; 0 if it is none."""
    match = re.fullmatch(r"([0-9a-f]{1,8}):([0-9a-f]{1,8})", value.strip())
    return os.makedev(int(match[1], 16), int(match[2], 16)) if match else 0


def _kernel_devices(root: str) -> dict[tuple[int, int], int]:
    """What the kernel's backend has, by (domid, devid), whatever xenstore says."""
    found = {}
    for entry in Path(root, KERNEL_DEVICES).glob("vbd-*"):
        match = re.fullmatch(r"vbd-(\d{1,5})-(\d{1,10})", entry.name)
        try:
            number = _number((entry / "physical_device").read_text())
        except OSError:
            continue                    # none yet
        if match and number:
            found[int(match[1]), int(match[2])] = number
    return found


def _children(store: Store, path: str) -> list[str]:
    """None where there is nothing, or nothing that we may see."""
    try:
        return store.ls(path)
    except StoreError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES):
            raise
        return []


def _get(store: Store, path: str) -> str:
    try:
        return text.decode(store.get(path) or b"")
    except StoreError as error:
        if error.errno != errno.EACCES:
            raise
        return ""


# Looking at files.

def _has(area: Area, status: os.stat_result, root: str) -> bool:
    if area.number and users.share_storage(users.status_of(area.number), status, root=root):
        return True
    if not area.path or _is_elsewhere(area.path, status, root):
        return False
    try:
        found = os.stat(text.encode(area.path))
    except (OSError, ValueError):
        return False                    # gone, or in a place that is not ours
    return users.share_storage(found, status, root=root)


def _is_elsewhere(path: str, status: os.stat_result, root: str) -> bool:
    """Whether a path lies on a file system of a server that is not the image's: it may be gone, and to look there would
    take for ever."""
    mount = mounts.of_path(path, root=root)
    if mount is None or not REMOTE.match(mount.kind):
        return False
    return mount.device != f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"

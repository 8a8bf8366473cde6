"""Domains as xenstore shows them: names, numbers, and which domain it is that has a number now.

A driver domain may not read other domains' nodes: there a domain has no name, and only its disks' areas tell its end.
"""
from __future__ import annotations

import errno

from xenvbd import text, vdev
from xenvbd.errors import NoSuchDisk, PropertyError, StoreError
from xenvbd.store import Store

MAX_DIGITS = 5                  # of a domid


def path(domid: int) -> str:
    return f"/local/domain/{domid}"


def name_path(domid: int) -> str:
    """Only root may write it; a rename writes it and nothing else that we read."""
    return f"{path(domid)}/name"


def name(store: Store, domid: int) -> str:
    """The domain's name now, or its number if it has none that can be told from a number.  See text.decode()."""
    return _usable(_get(store, name_path(domid))) or str(domid)


def find(store: Store, wanted: str) -> int:
    """The number of the domain that a name, as it is now, or a number means.  NoSuchDisk if there is none;
    PropertyError if several have the name.  Costs a request for each domain of the host if it is a name."""
    if is_number(wanted):
        if _get(store, path(int(wanted))) is None:
            raise NoSuchDisk(errno.ENOENT, f"there is no domain {int(wanted)}; `xl list` shows those there are")
        return int(wanted)
    found = sorted(domid for domid in _numbers(store) if _usable(_get(store, name_path(domid))) == wanted)
    if len(found) > 1:
        raise PropertyError(errno.ENOTUNIQ, f"domains {_and(found)} are all named {text.cited(wanted)}: expected a "
                            f"name that one has; say which by its number, {found[0]}")
    if not found:
        raise NoSuchDisk(errno.ENOENT, f"there is no domain named {text.cited(wanted)}; "
                         "`xl list` shows those there are")
    return found[0]


def is_number(wanted: str) -> bool:
    """Whether it means a domain's number, whatever domains are named."""
    return wanted.isascii() and wanted.isdecimal() and len(wanted) <= MAX_DIGITS


def is_incoming(store: Store, domid: int) -> bool:
    """Whether libxl is making the domain of one that comes from another host, or from here."""
    return (_get(store, name_path(domid)) or b"").endswith(b"--incoming")


def without_migration(name: str) -> str:
    """The name that a guest goes by when libxl has migrated it: until then the new domain is NAME--incoming, and from
    then on the old one NAME--migratedaway."""
    return name.removesuffix("--incoming").removesuffix("--migratedaway") or name


def identity(store: Store, domid: int) -> str | None:
    """What tells the domain from any other that had its number before, or will (XSA-417); None if it is gone.

    It is the path of its VM, which a reboot and a migration keep, so two domains can have the same: a guest is a domid
    *and* this.  A VM that gets the same domid again is told by its areas, which are new."""
    base = path(domid)
    if _get(store, base) is None or not _introduced(store, domid):
        return None
    return text.decode(_get(store, f"{base}/vm") or b"")


def group(store: Store, domid: int) -> int | None:
    """The domain whose disks these are in the end: for a stubdomain the guest that it is the device model of, else its
    own number.  None if that cannot be read, as in a driver domain."""
    node = f"{path(domid)}/target"
    try:
        value = store.get(node)
    except StoreError as exc:
        if exc.errno != errno.EACCES:
            raise
        return None
    return int(value) if value and value.isdigit() else domid


def disk_name(domain: str, devid: int) -> str:
    """DOMAIN:VDEV, as disks are named everywhere."""
    return f"{domain}:{vdev_name(devid)}"


def disk_names(domain: str, domid: int, devid: int) -> tuple[str, ...]:
    """All that `match` in the configuration may mean a disk by, whose domain has this name now."""
    return (disk_name(domain, devid), disk_name(without_migration(domain), devid), disk_name(str(domid), devid),
            f"{domid}:{devid}")


def vdev_name(devid: int) -> str:
    """The vdev's name; a number that is no vdev's stays one."""
    try:
        return vdev.from_number(devid).name
    except PropertyError:
        return str(devid)


def _usable(value: bytes | None) -> str | None:
    """A name that means no other thing on a command line; None if it would, or if there is none."""
    name = text.decode(value or b"")
    return name if name and not name.isdecimal() and ":" not in name and "\0" not in name else None


def _numbers(store: Store) -> list[int]:
    try:
        return [int(child) for child in store.ls("/local/domain") if is_number(child)]
    except StoreError as exc:
        if exc.errno != errno.EACCES:
            raise
        raise NoSuchDisk(errno.EACCES, "this domain may not read the names of domains: give the number") from None


def _and(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"


def _get(store: Store, node: str) -> bytes | None:
    """A node's value; None if it does not exist, empty if it may not be read."""
    try:
        return store.get(node)
    except StoreError as exc:
        if exc.errno != errno.EACCES:
            raise
        return b""


def _introduced(store: Store, domid: int) -> bool:
    try:
        return store.is_introduced(domid)
    except StoreError as exc:
        if exc.errno != errno.EACCES:
            raise
        return True             # only a privileged domain may ask

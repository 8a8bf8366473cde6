"""Domains as xenstore shows them: names, numbers, and which domain it is that has a number now.

A driver domain may not read other domains' nodes: there a domain has no name, and only its disks' areas tell its end.
"""
from __future__ import annotations

import errno

from xenvbd import vdev
from xenvbd.errors import NoSuchDisk, PropertyError, StoreError
from xenvbd.store import Store


def path(domid: int) -> str:
    return f"/local/domain/{domid}"


def name(store: Store, domid: int) -> str:
    """The domain's name, or its number if it has none that can be told from a number."""
    value = _get(store, f"{path(domid)}/name") or b""
    text = value.decode("ascii", "replace")
    return text if text.isprintable() and text and not text.isdecimal() and ":" not in text else str(domid)


def find(store: Store, text: str) -> int:
    """The number of the domain that a name or a number means.  NoSuchDisk if there is none."""
    if text.isascii() and text.isdecimal():
        if _get(store, path(int(text))) is None:
            raise NoSuchDisk(errno.ENOENT, f"there is no domain {int(text)}; `xl list` shows those there are")
        return int(text)
    for child in store.ls("/local/domain"):
        if child.isdecimal() and name(store, int(child)) == text:
            return int(child)
    raise NoSuchDisk(errno.ENOENT, f"there is no domain named {text!r}; `xl list` shows those there are")


def identity(store: Store, domid: int) -> str | None:
    """What tells the domain from any other that had its number before, or will (XSA-417); None if it is gone."""
    base = path(domid)
    if _get(store, base) is None or not _introduced(store, domid):
        return None
    return (_get(store, f"{base}/vm") or b"").decode("ascii", "replace")


def disk_name(domain: str, devid: int) -> str:
    """DOMAIN:VDEV, as disks are named everywhere; a number that is no vdev's stays one."""
    try:
        return f"{domain}:{vdev.from_number(devid).name}"
    except PropertyError:
        return f"{domain}:{devid}"


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

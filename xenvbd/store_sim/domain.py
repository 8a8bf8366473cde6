"""Domains as the toolstack makes them: the nodes and owners of libxl's domain creation, then INTRODUCE.

The store may be a Store over dom0's connection, from any process, or the simulated store itself."""
from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Protocol

# libxl_create.c: what the guest may only read, and what it owns.
READABLE = ("", "cpu", "memory", "device", "control")
OWNED = ("device/suspend/event-channel", "control/shutdown", "control/feature-poweroff",
         "control/feature-reboot", "control/feature-suspend", "control/sysrq", "data", "drivers", "feature",
         "attr", "error")
OWNED_HVM = ("control/feature-s3", "control/feature-s4")


class Toolstack(Protocol):
    """The part of Store that is needed here."""

    def read(self, path: str) -> bytes:
        """As Store.read."""

    def write(self, path: str, value: bytes | str) -> None:
        """As Store.write."""

    def rm(self, path: str) -> None:
        """As Store.rm."""

    def exists(self, path: str) -> bool:
        """As Store.exists."""

    def set_perms(self, path: str, perms: Sequence[str]) -> None:
        """As Store.set_perms."""

    def introduce(self, domid: int, gfn: int = 0, port: int = 1) -> None:
        """As Store.introduce."""

    def release(self, domid: int) -> None:
        """As Store.release."""

    def is_introduced(self, domid: int) -> bool:
        """As Store.is_introduced."""


def create(store: Toolstack, domid: int, name: str, pv: bool = True) -> None:
    """Write the nodes of a new domain and introduce it; for dom0, write what xen-init-dom0 does."""
    base = f"/local/domain/{domid}"
    if domid == 0:
        store.write(f"{base}/domid", "0")
        store.write(f"{base}/name", "Domain-0")
        return
    vm = f"/vm/{uuid.uuid4()}"
    for directory in (*READABLE, *(() if pv else ("hvmloader",))):
        _make(store, f"{base}/{directory}".rstrip("/"), ("n0", f"r{domid}"))
    for node in (*OWNED, *(() if pv else OWNED_HVM)):
        _make(store, f"{base}/{node}", (f"n{domid}",))
    _make(store, vm, ("n0", f"r{domid}"))
    _make(store, f"/libxl/{domid}", ("n0",))
    values = {f"{base}/vm": vm, f"{base}/name": name, f"{base}/domid": str(domid),
              f"{vm}/uuid": vm.removeprefix("/vm/"), f"{vm}/name": name,
              f"/libxl/{domid}/type": "pv" if pv else "hvm",
              f"{base}/control/platform-feature-multiprocessor-suspend": "1",
              f"{base}/control/platform-feature-xs_reset_watches": "1"}
    for path, value in values.items():
        store.write(path, value)
    store.introduce(domid)


def destroy(store: Toolstack, domid: int) -> None:
    """Remove the nodes of a domain and release it."""
    base = f"/local/domain/{domid}"
    if store.exists(f"{base}/vm"):
        store.rm(store.read(f"{base}/vm").decode())
    store.rm(f"/libxl/{domid}")
    store.rm(base)
    if store.is_introduced(domid):
        store.release(domid)


def _make(store: Toolstack, path: str, perms: Sequence[str]) -> None:
    store.write(path, "")
    store.set_perms(path, perms)

"""This host's Xen: is it there, and where is its xenstore?  Only then are libxen's libraries loaded."""
from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from xenvbd.errors import NoHypervisor

if TYPE_CHECKING:
    from xenvbd.hv.ops import Hypervisor

DEVICES = {"/dev/xen/evtchn": "xen-evtchn", "/dev/xen/gntdev": "xen-gntdev"}      # and their kernel modules
OPENED_BY_WORKERS = ("/dev/xen/gntdev",)        # event channels they are given: evtchn.offer()
STORES = ("/run/xenstored/socket", "/dev/xen/xenbus", "/proc/xen/xenbus")


def open(domid: int) -> Hypervisor:
    """Xen's event channels and grant tables.  Raises NoHypervisor, which names the path that is missing."""
    for path, module in DEVICES.items():
        if not os.path.exists(path):
            raise NoHypervisor(errno.ENOENT, f"no such device: {_hint(module)}", path=path)
        if not os.access(path, os.R_OK | os.W_OK):
            raise NoHypervisor(errno.EACCES, "this user may not open it", path=path)
    try:
        from xenvbd.hv import xen
    except ImportError as exc:
        raise NoHypervisor(errno.ENOENT, f"Xen's libraries are not installed: {exc}") from exc
    return xen.host(domid, store_path())


def store_path() -> str:
    """Where xenstore is reached: xenstored's socket if it runs in this domain, else the kernel's device."""
    return next((path for path in STORES if os.path.exists(path)), STORES[1])


def _hint(module: str) -> str:
    if os.path.exists("/sys/hypervisor/type"):
        return f"load the kernel module {module}"
    return 'this host does not run under Xen (a simulated machine is "sim:" and a directory)'

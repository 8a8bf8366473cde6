"""What libxl keeps in xenstore about guests, and what it must find there to let their disks be served by us.

None of it exists under another toolstack, or in a driver domain.
"""
from __future__ import annotations

from xenvbd import domains
from xenvbd.errors import StoreError
from xenvbd.features import LIBXL
from xenvbd.store import Store, Transaction

# libxl sends SIGHUP to the process of this number when the guest is destroyed, and does not mind if there is none: no
# Linux has a process with this one (PID_MAX_LIMIT is 2^22).
NO_PROCESS = str(2**31 - 1)


def guest_type(store: Store, domid: int) -> str | None:
    """"pv", "pvh" or "hvm"; None if libxl has not said."""
    try:
        value = store.get(f"{LIBXL}/{domid}/type")
    except StoreError:
        return None
    return None if value is None else value.decode("ascii", "replace")


def device_model(domid: int) -> str:
    """Where libxl keeps the process id of a guest's device model: its QEMU."""
    return f"{domains.path(domid)}/image/device-model-pid"


def stand_in(store: Store, domid: int) -> bool:
    """Let `xl block-attach` give this guest a qdisk: libxl refuses that to a PV or PVH guest without a device model.

    An HVM guest has one, and so has a guest that was created with a disk for one.  Whether it was done."""
    if guest_type(store, domid) not in ("pv", "pvh") or store.exists(device_model(domid)):
        return False

    def write(tx: Transaction) -> bool:
        if not tx.exists(domains.path(domid)) or tx.exists(device_model(domid)):
            return False
        tx.write(device_model(domid), NO_PROCESS)
        return True

    return store.transaction(write)

"""xenvbd-dm: what libxl starts in the place of QEMU for a PV or PVH guest whose disks xenvbd serves.

    device_model_override = "/usr/lib/xenvbd/xenvbd-dm"

libxl starts a device model for a guest with qdisks, waits until that says "running" in xenstore, asks it a few things
over QMP, and sends it SIGHUP when the guest is destroyed.  This one serves nothing: it says "running" once the daemon
offers the guest's disks, so that no guest starts without them, and lives as long as the guest.  If a disk cannot be
offered it ends with the reason on stderr, which libxl keeps in /var/log/xen, and `xl create` fails.
"""
from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

from xenvbd import config, domains, features, hv, xenbus
from xenvbd.control import Client
from xenvbd.errors import ClaimError, PropertyError, StoreError, TargetError, exit_code
from xenvbd.loop import Loop
from xenvbd.qmp import Monitor, listen
from xenvbd.store import Store

KIND = "qdisk"
WAIT_SECONDS = 50.0             # for the daemon; libxl waits 60 s for us
RECONNECT_SECONDS = 1.0
# Other devices of a PV guest that QEMU is the backend of (libxl__need_xenpv_qemu).
QEMU_DEVICES = ("vfb", "vkbd", "9pfs", "qusb")


@dataclass
class Orders:
    """What libxl said on the command line: the guest's domain, and its monitor sockets by name, as paths or numbers of
    inherited descriptors."""

    domid: int = -1
    machine: str = ""
    monitors: list[str] = field(default_factory=list)
    sockets: dict[str, str] = field(default_factory=dict)


def parse(arguments: list[str]) -> Orders:
    """QEMU's command line as libxl writes it; what does not concern us is not looked at.  PropertyError."""
    orders = Orders()
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option == "-xen-domid":
            orders.domid = int(value) if value.isascii() and value.isdecimal() else -1
        elif option in ("-machine", "-M"):
            orders.machine = value.partition(",")[0]
        elif option == "-mon":
            orders.monitors.append(_words(value).get("chardev", ""))
        elif option == "-chardev" and value.startswith("socket,"):
            words = _words(value)
            orders.sockets[words.get("id", "")] = words.get("path") or f"fd:{words.get('fd')}"
    if orders.domid < 0:
        raise PropertyError(errno.EINVAL, "-xen-domid with a domain's number is missing: this is for libxl to start, "
                            "as a guest's device_model_override")
    if orders.machine != "xenpv":
        raise PropertyError(errno.EINVAL, f"-machine {orders.machine}: expected xenpv; an HVM guest needs QEMU itself, "
                            "its disks can be attached with xenvbd attach")
    return orders


def _words(text: str) -> dict[str, str]:
    """QEMU's "a=b,c=d"; a comma in a value is doubled."""
    parts = text.replace(",,", "\0").split(",")
    return {name: value.replace("\0", ",") for name, _, value in (part.partition("=") for part in parts)}


class DeviceModel:
    """The process.  run() returns at the end of the guest, or raises what is in its way."""

    def __init__(self, orders: Orders, store: Store) -> None:
        self.orders, self.store, self.domid = orders, store, orders.domid
        self.loop = Loop()
        self._failure: OSError | None = None
        self._running = False
        self._paths: list[str] = []
        self._monitors = [Monitor(self.loop, self._socket(name), self._commands()) for name in orders.monitors
                          if name in orders.sockets]

    def run(self) -> None:
        """Wait for the disks, say that all is well, and wait for the guest's end."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, frame: self.loop.stop())
        self._refuse_others()
        self.store.on_lost = lambda exc: self._reconnect()
        self.loop.read(self.store.fileno(), self.store.dispatch)
        self.store.watch(f"/local/domain/0/backend/{KIND}/{self.domid}", lambda path: self._look())
        self.store.watch("@releaseDomain", lambda path: self._look())
        late = self.loop.later(WAIT_SECONDS, self._late)
        self.loop.run()
        late.cancel()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        for monitor in self._monitors:
            monitor.close()
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self.loop.forget(self.store.fileno())
        self.loop.close()

    def _socket(self, name: str) -> socket.socket:
        where = self.orders.sockets[name]
        if where.startswith("fd:"):
            return socket.socket(fileno=int(where.removeprefix("fd:")))
        self._paths.append(where)
        return listen(where)

    def _commands(self) -> dict[str, Any]:
        return {
            "qmp_capabilities": lambda arguments: {},
            "query-version": lambda arguments: {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "xenvbd"},
            "query-status": lambda arguments: {"running": True, "singlestep": False, "status": "running"},
            "query-chardev": lambda arguments: [
                {"label": name, "filename": f"unix:{path},server=on", "frontend-open": True}
                for name, path in self.orders.sockets.items()],
            "query-vnc": lambda arguments: {"enabled": False},
            "query-blockstats": lambda arguments: [],
            "query-block": lambda arguments: [],
            "stop": lambda arguments: {}, "cont": lambda arguments: {},
            "quit": self._quit}

    def _quit(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self.loop.stop()
        return {}

    def _refuse_others(self) -> None:
        """Error if the guest needs a QEMU for more than its disks."""
        for kind in QEMU_DEVICES:
            if self.store.exists(f"{features.LIBXL}/{self.domid}/device/{kind}"):
                raise PropertyError(errno.EINVAL, f"the guest has a {kind}, which is QEMU's: leave out "
                                    "device_model_override, and attach its disks with xenvbd attach")

    def _look(self) -> None:
        """Something has happened to the guest or its disks."""
        try:
            if domains.identity(self.store, self.domid) is None:
                self.loop.stop()
            elif not self._running and False not in list(map(self._offered, self._areas())):
                self.store.write(f"/local/domain/0/device-model/{self.domid}/state", "running")
                self._running = True
        except StoreError as exc:
            print(f"xenvbd-dm: {exc}", file=sys.stderr)
        except OSError as exc:
            self._end(exc)

    def _areas(self) -> list[str]:
        root = f"/local/domain/0/backend/{KIND}/{self.domid}"
        return [f"{root}/{name}" for name in self.store.ls(root)] if self.store.exists(root) else []

    def _offered(self, area: str) -> bool:
        """Whether the guest can connect to the disk.  TargetError if it never will."""
        if self.store.get(f"{area}/{features.HOTPLUG_STATUS}") == b"error":
            reason = self.store.get(f"{area}/{features.HOTPLUG_ERROR}") or b"failed"
            raise TargetError(errno.EIO, reason.decode("ascii", "replace"), path=area)
        state = xenbus.parse_state(self.store.get(f"{area}/{features.STATE}"))
        return state is not None and state >= xenbus.XenbusState.INITWAIT

    def _late(self) -> None:
        if not self._running:
            self._end(TargetError(errno.ETIMEDOUT, f"the disks below were not offered in {WAIT_SECONDS:g} s; "
                                  "xenvbd explain says more", path=f"/local/domain/0/backend/{KIND}/{self.domid}"))

    def _end(self, exc: OSError) -> None:
        self._failure = exc
        self.loop.stop()

    def _reconnect(self) -> None:
        """xenstored is gone: the guest goes on, and so do we."""
        try:
            self.store.reconnect()
        except StoreError:
            self.loop.later(RECONNECT_SECONDS, self._reconnect)


def check_daemon(settings: config.Config) -> None:
    """ControlError if the daemon cannot be reached; ClaimError if it does not claim these disks."""
    kinds = Client(settings.control, timeout=WAIT_SECONDS).call("ping")["kinds"]
    if KIND not in kinds:
        raise ClaimError(errno.EPERM, f"the daemon claims {', '.join(kinds)}: expected kinds = [\"{KIND}\"] in its "
                         "configuration")


def main(arguments: list[str], settings: config.Config | None = None) -> int:
    """Be the device model; the exit status.  settings: not this host's configuration."""
    try:
        orders, settings = parse(arguments), settings or config.load()
        check_daemon(settings)
        with Store(hv.open(settings.hypervisor).store_path) as store:
            model = DeviceModel(orders, store)
            try:
                model.run()
            finally:
                model.close()
    except OSError as exc:
        print(f"xenvbd-dm: {exc}", file=sys.stderr)
        return exit_code(exc)
    return 0

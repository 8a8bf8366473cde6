"""The verbs of the control socket: ping, attach, detach, list, show, explain, resume, restart.

attach and detach may wait for a guest: their reply comes when it has answered, or with what was waited for.
"""
from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from xenvbd import __version__, domains, parameters, target, vdev
from xenvbd.backend import Backend
from xenvbd.control import Reply, Result
from xenvbd.device import Device
from xenvbd.errors import Error, PropertyError
from xenvbd.explain import explain
from xenvbd.parameters import flag, seconds_of, text
from xenvbd.properties import Properties
from xenvbd.replacement import Replacement
from xenvbd.show import show, waiting_for

ATTACH_SECONDS = 30.0
DETACH_SECONDS = 30.0
RESTART_SECONDS = 30.0


class Verbs:
    """What the control server dispatches to."""

    def __init__(self, backend: Backend, restart: Callable[[], None]) -> None:
        """restart: ends this manager and starts the next in its place."""
        self.backend = backend
        self._restart_manager, self._started = restart, time.time()
        self._verbs: dict[str, Callable[[dict[str, Any], Reply], None]] = {
            "ping": self._ping, "attach": self._attach, "detach": self._detach, "list": self._list,
            "show": self._show, "explain": self._explain, "resume": self._resume, "restart": self._restart}

    def dispatch(self, verb: str, params: dict[str, Any], reply: Reply) -> None:
        """Do it; what it raises is the reply."""
        if verb not in self._verbs:
            raise PropertyError(errno.EINVAL, f"unknown verb {verb!r}: expected {', '.join(self._verbs)}")
        parameters.refuse_unknown(verb, params)
        self._verbs[verb](params, reply)

    def _ping(self, params: dict[str, Any], reply: Reply) -> None:
        backend = self.backend
        reply({"version": __version__, "pid": os.getpid(), "started": self._started, "disks": len(backend.devices),
               "workers": backend.workers.running, "store": backend.store.connected,
               "kinds": list(backend.kinds)})

    def _list(self, params: dict[str, Any], reply: Reply) -> None:
        """Of all domains, or of one.  NoSuchDisk: that is none."""
        wanted = params.get("domain")
        self.backend.names.settle()
        found = self.backend.devices.values() if wanted is None else self.backend.lookup.domain(str(wanted))
        if wanted is not None and not found:
            domains.find(self.backend.store, str(wanted))
        reply({"disks": list(map(self._shown, sorted(found, key=lambda device: (device.domid, device.devid))))})

    def _show(self, params: dict[str, Any], reply: Reply) -> None:
        reply(self._shown(self.backend.find(text(params, "disk"))))

    def _explain(self, params: dict[str, Any], reply: Reply) -> None:
        """Also who came upon the image after it was claimed, which a helper thread finds out."""
        told = explain(self.backend, text(params, "disk"))
        device = next((each for each in self.backend.devices.values() if each.areas.backend == told["backend"]), None)
        if device is None:
            reply(told)
        else:
            device.holding.uses(lambda found: reply(told | {"warnings": [*told["warnings"], *found]}))

    def _resume(self, params: dict[str, Any], reply: Reply) -> None:
        """same-content: take the image that the disk's path means now for the one that was opened."""
        device = self.backend.find(text(params, "disk"))
        if flag(params, "same-content"):
            device.accept_image()
            reply(self._shown(device) | {"resumed": True})
            return
        stopped = device.counters().stopped
        if stopped == "flush-failed":
            raise Error(errno.EIO, "a flush of it failed, and nothing is tried again: `xenvbd explain` says what to do",
                        disk=device.name)

        def resumed(result: Result) -> None:
            reply(result if isinstance(result, OSError) else self._shown(device) | {"resumed": stopped != "none"})

        device.resume(resumed)

    def _restart(self, params: dict[str, Any], reply: Reply) -> None:
        """Without a disk the manager; else the worker that serves it, and with it all disks of its domain: its rings
        are handed over to a new one, of this manager's version."""
        if params.get("disk") is None:
            reply({"pid": os.getpid(), "started": self._started})
            self._restart_manager()
            return
        device = self.backend.find(text(params, "disk"))
        deadline = time.monotonic() + seconds_of(params, RESTART_SECONDS)

        def look(replacement: Replacement) -> None:
            if replacement.done:
                result = replacement.result
                reply(result if isinstance(result, OSError) else result | {"disk": device.name})
            elif time.monotonic() >= deadline:
                reply(Error(errno.ETIMEDOUT, f"not done yet: {replacement.missing}", disk=device.name))
            else:
                self.backend.loop.later(0.01, lambda: look(replacement))

        def begin() -> None:
            # A manager that has just come claims the images first: the next worker is to have them.
            coming = any(each.holding.coming for each in self.backend.served(device.domid))
            if coming and time.monotonic() < deadline:
                self.backend.loop.later(0.01, begin)
                return
            try:
                look(Replacement(self.backend, device.domid))
            except OSError as exc:
                reply(exc)

        begin()

    def _attach(self, params: dict[str, Any], reply: Reply) -> None:
        properties, seconds = self._properties(params), seconds_of(params, ATTACH_SECONDS)
        device = self.backend.create(properties, str(params.get("engine") or ""))
        waits = flag(params, "wait", True)

        def result() -> Result | None:
            if device.failed:
                return device.error or Error(errno.EIO, "it was removed meanwhile", disk=device.name)
            return self._shown(device) if device.connected or (not waits and device.published) else None

        self._wait(device, result, seconds, reply,
                   f"; the disk stays offered: `xenvbd detach {device.domid}:{properties.vdev.name}` takes it back")

    def _detach(self, params: dict[str, Any], reply: Reply) -> None:
        device = self.backend.find(text(params, "disk"))
        force, seconds = flag(params, "force"), seconds_of(params, DETACH_SECONDS)
        device.unplug(force)
        if not flag(params, "wait", True):
            reply(self._shown(device))
            return

        def result() -> Result | None:
            return {"disk": device.name} if device.gone else None

        self._wait(device, result, seconds, reply,
                   "" if force else "; detach --force does not wait for the guest")

    def _wait(self, device: Device, result: Callable[[], Result | None], seconds: float, reply: Reply,
              hint: str = "") -> None:
        """Reply when there is a result, or after so many seconds with what was waited for."""
        def attempt() -> bool:
            found: Result | None
            try:
                found = result()
            except OSError as exc:          # no fault of the device, which is not to suffer from it
                found = exc
            if found is None:
                return False
            timer.cancel()
            reply(found)
            return True

        def give_up() -> None:
            self.backend.stop_waiting(device, attempt)
            reply(Error(errno.ETIMEDOUT, f"not done after {seconds:g} s: {waiting_for(device)}{hint}",
                        disk=device.name))

        timer = self.backend.loop.later(seconds, give_up)
        if not attempt():
            self.backend.wait(device, attempt)

    def _shown(self, device: Device) -> dict[str, Any]:
        worker = self.backend.workers.by_domid.get(device.domid)
        return show(device, worker.pid if worker else None)

    def _properties(self, params: dict[str, Any]) -> Properties:
        """The disk that attach asks for.  PropertyError, NoSuchDisk."""
        store = self.backend.store
        domid = domains.find(store, str(params.get("domain", "")))
        values = parameters.properties(params)
        wanted = params.get("vdev")
        disk = vdev.parse(str(wanted)) if wanted else vdev.free(self._used(domid))
        asked = Properties(domid=domid, vdev=disk, target=target.parse(text(params, "target")))
        options = self.backend.host.options(*domains.disk_names(domains.name(store, domid), domid, disk.number))
        properties: Properties = replace(options.applied(asked), **values)
        parameters.refuse_what_cannot_act(properties, values)
        return properties

    def _used(self, domid: int) -> list[int]:
        """The vdevs that a domain has, also those that are being attached."""
        parent = f"{domains.path(domid)}/device/vbd"
        names = self.backend.store.ls(parent) if self.backend.store.exists(parent) else []
        return [int(name) for name in names if name.isdecimal()] + [
            device.devid for device in self.backend.served(domid)]

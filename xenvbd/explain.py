"""`explain`: where a disk's handshake stands, why, and what to look at next.

For disks that are served, and for areas in xenstore that are not: then it says why not.
"""
from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from xenvbd import domains, errors, features, vdev
from xenvbd.backend import Backend
from xenvbd.device import Device
from xenvbd.errors import ClaimError, NoSuchDisk, PolicyError, StoreError
from xenvbd.history import label
from xenvbd.show import stalled, waiting_for
from xenvbd.text import cited, quoted
from xenvbd.xenbus import Phase, Plane, XenbusState, parse_state

# verdict -> the exit status of the command
RELOAD = "service xenvbd reload"
STATUS = {"serving": errors.DONE, "waiting": errors.TIMED_OUT, "failed": errors.FAILED, "refused": errors.REFUSED}
Answer = tuple[str, str, list[str]]             # verdict, why, what to look at next


def explain(backend: Backend, text: str) -> dict[str, Any]:
    """The disk that DOMAIN:VDEV means, as JSON.  NoSuchDisk if there is no trace of it."""
    try:
        device = backend.find(text)
    except NoSuchDisk:
        return _unclaimed(backend, text)
    verdict, why, look = _judge(device)
    target = device.properties and str(device.properties.target)
    return _common(device.name, device.devid, device.areas.backend, device.areas.frontend) | {
        "states": [{"end": step.end, "state": step.state, "seconds": round(step.seconds, 3)}
                   for step in device.history.steps],
        "seconds": round(device.history.age, 3), "target": target, "size": device.facts and device.facts.size,
        "warnings": device.remarks, **_verdict(verdict, why, look)}


def _common(name: str, devid: int, back: str, front: str) -> dict[str, Any]:
    return {"disk": name, "vdev": devid, "backend": back, "frontend": front, "states": [], "seconds": None,
            "target": None, "size": None, "warnings": []}


def _verdict(verdict: str, why: str, look: list[str]) -> dict[str, Any]:
    return {"verdict": verdict, "why": why, "look": look, "exit-status": STATUS[verdict]}


# A disk of ours

def _judge(device: Device) -> Answer:
    view, stopped = device.view, device.counters().stopped
    if device.adopting:
        return "waiting", device.adopting, _while_adopting(device)
    if device.error is not None or view.failed or view.broken:
        return "failed", waiting_for(device), _after_failure(device)
    if stopped != "none":
        return "failed", f"the disk has stopped: {stopped}", _after_stop(device, stopped)
    if device.stalls.requests:
        return "waiting", f"its storage {stalled(device)}", _after_stall(device)
    if device.connected:
        return "serving", "the guest is connected and served", _while_unclaimed(device)
    if device.landing:
        return "waiting", waiting_for(device), [
            f"the disk goes on when that has ended; xenvbd detach {quoted(device.name)} gives it up"]
    if view.phase is Phase.PUBLISHING:
        seconds = device.host.policy.open_seconds
        return "waiting", waiting_for(device), [f"it is given up {seconds:g} s after it began (open-timeout)"]
    return "waiting", waiting_for(device), list(_after_silence(device))


def _while_adopting(device: Device) -> list[str]:
    return ["the guest waits meanwhile, and sees no error; the daemon goes on trying, and its log says why",
            f"xenvbd detach --force {quoted(device.name)} takes the disk from the guest instead"]


def _while_unclaimed(device: Device) -> list[str]:
    """What an administrator can do about an image that this manager has no way to."""
    if not (trouble := device.holding.trouble):
        return []
    return [f"its image is not claimed: {trouble}; it is looked for each second",
            "until then it is served by the worker that it has, and no other can have the image"]


def _after_failure(device: Device) -> list[str]:
    if isinstance(device.error, PolicyError):
        return [f"`allow` under [targets] in the configuration says what may be served; {RELOAD} reads it again"]
    if isinstance(device.error, ClaimError):
        return ["another process, or another disk, has the target: xenvbd list; fuser or lsof say whose"]
    if device.view.phase is Phase.FAILED:
        return ["nothing was offered to the guest; mend it, take the disk away and attach it again"]
    return [f"what the guest wrote: xenstore-ls {device.areas.frontend}",
            "the disk works again once the guest reconnects, or is attached anew"]


def _after_stop(device: Device, stopped: str) -> list[str]:
    if stopped == "no-space":
        where = device.properties and device.properties.target and device.properties.target.path
        return [f"df {where}; make room, and it goes on by itself (or at once: xenvbd resume {quoted(device.name)})"]
    look = ["dmesg, for the storage's errors; what the guest had flushed before is safe"]
    if stopped == "io-error":
        return [*look, f"xenvbd resume {quoted(device.name)} tries again what is held: rerror or werror is \"stop\""]
    return [*look, "nothing is answered any more, for what was written since may be lost: xenvbd detach --force "
            f"{quoted(device.name)}, check the storage, and attach it again"]


def _after_stall(device: Device) -> list[str]:
    return ["dmesg, for a storage that hangs; other disks go on",
            "nothing is answered for it, as it may still land: the guest waits, and goes on when the storage does",
            f"xenvbd detach --force {quoted(device.name)} takes it from the guest; its image stays locked until then"]


def _after_silence(device: Device) -> Iterator[str]:
    """What to look at when the other side, or the storage, has not answered."""
    view, name = device.view, domains.vdev_name(device.devid)
    if view.plane is Plane.STOPPING:
        yield "dmesg, for a storage that hangs; the disk is let go when its last request has come back"
    elif view.plane is Plane.STARTING:
        yield f"the worker of domain {device.domid} is connecting to the ring: the daemon's log"
    elif view.backend is XenbusState.INITWAIT and view.frontend is XenbusState.INITIALISING:
        yield "the frontend's driver is not loaded, or has not seen the device, or the guest is paused: xl list"
        yield f"in the guest: dmesg | grep {name}"
    elif view.backend is XenbusState.CLOSING:
        yield f"the guest has not let go of it; in the guest: findmnt, swapon, for what uses {name}"
        yield f"xenvbd detach --force {quoted(device.name)} does not wait for it"
    elif view.frontend is None:
        yield f"{device.areas.frontend} is gone: the guest, or the toolstack, has removed it"


# Not ours

def _unclaimed(backend: Backend, text: str) -> dict[str, Any]:
    """Why an area of this name is not served."""
    domain, _, disk = text.rpartition(":")
    domid, devid = domains.find(backend.store, domain), vdev.parse(disk).number
    name = domains.disk_name(domains.name(backend.store, domid), devid)
    front = features.frontend_path(domid, devid)
    found = _area(backend, domid, devid)
    if found is None:
        if not backend.store.exists(front):
            raise NoSuchDisk(errno.ENOENT, f"there is no disk {cited(text)}, in xenstore neither")
        back = (_read(backend, f"{front}/{features.BACKEND}") or b"").decode("ascii", "replace")
        answer: Answer = "failed", f"{front} is there, but its backend area ({back or 'not named'}) is not", [
            f"its backend was removed, or is in another domain; xl block-detach {domid} {devid} removes the rest"]
        return _common(name, devid, back, front) | _verdict(*answer)
    kind, area = found
    states = [{"end": end, "state": label(parse_state(_read(backend, f"{path}/{features.STATE}"))), "seconds": None}
              for end, path in (("backend", area), ("frontend", front))]
    return _common(name, devid, area, front) | {
        "states": states, "target": (_read(backend, f"{area}/{features.PARAMS}") or b"").decode(errors="replace"),
        **_verdict(*_why_not(backend, kind, domid, devid))}


def _area(backend: Backend, domid: int, devid: int) -> tuple[str, str] | None:
    """The kind and the path of the backend area of a disk, whosever it is."""
    root = f"{domains.path(backend.host.backend_domid)}/backend"
    kinds = backend.store.ls(root) if backend.store.exists(root) else []
    for kind in ("vbd", "vbd3", "qdisk", *sorted(kinds)):
        area = features.backend_path(backend.host.backend_domid, kind, domid, devid)
        if kind in kinds and _read(backend, f"{area}/{features.FRONTEND}") == features.frontend_path(
                domid, devid).encode():
            return kind, area
    return None


def _why_not(backend: Backend, kind: str, domid: int, devid: int) -> Answer:
    area = features.backend_path(backend.host.backend_domid, kind, domid, devid)
    state = parse_state(_read(backend, f"{area}/{features.STATE}"))
    rival = backend.claims.rival(kind, domid)
    if reason := backend.claims.refused.get((kind, domid, devid)):
        return "refused", reason, [f"{RELOAD} lets the daemon look at it again"]
    if rival is not None:
        return "refused", f"{rival.name} has it", [rival.advice]
    if kind not in backend.kinds:
        claimed = ", ".join(backend.kinds)
        return "refused", f"its kind is {kind}, and the daemon claims {claimed}", [
            f'kinds = ["{kind}"] in the configuration, and then {RELOAD}, let the daemon claim it']
    if state is not XenbusState.INITIALISING:
        return "refused", f"it was not new when the daemon saw it: its backend's state is {label(state)}", [
            "another backend serves it, or served it and left; only disks in state Initialising are claimed"]
    if _read(backend, f"{area}/{features.ONLINE}") != b"1":
        return "refused", f"{area}/{features.ONLINE} is not 1: the toolstack does not want it served", []
    return "waiting", "the daemon is about to take it", []


def _read(backend: Backend, path: str) -> bytes | None:
    try:
        return backend.store.get(path)
    except StoreError as exc:
        if exc.errno != errno.EACCES:
            raise
        return None

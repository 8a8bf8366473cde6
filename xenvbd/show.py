"""What `list` and `show` say of a device: a JSON object whose keys are spelt as xenstore spells them."""
from __future__ import annotations

from typing import Any

from xenvbd import domains, features
from xenvbd.device import Device
from xenvbd.errors import reason
from xenvbd.stats import Snapshot
from xenvbd.xenbus import Phase, Plane, XenbusState

FEATURES = ("persistent", "flush-cache", "barrier", "discard", "max-indirect-segments")


def show(device: Device, pid: int | None = None) -> dict[str, Any]:
    """Everything about a device, known here: no worker and no store is asked.  pid: of its worker."""
    counters = device.counters()
    return {
        "disk": device.name, "domid": device.domid, "domain": device.name.rpartition(":")[0],
        "vdev": device.devid, "name": domains.vdev_name(device.devid), "kind": device.areas.kind,
        "state": {"backend": device.view.backend.label, "frontend": _label(device.view.frontend)},
        "plane": device.view.plane.value, "pid": pid, "created": device.created,
        **_medium(device), **_connection(device),
        "inflight": counters.inflight, "stalled": device.stalls.requests, "note": note(device, counters),
        "warnings": device.remarks,
        "stats": counters.to_json(),
    }


def note(device: Device, counters: Snapshot) -> str:
    """Why it is not simply Connected, in a few words; empty if it is."""
    view = device.view
    if device.adopting:
        return device.adopting
    if device.error is not None:
        return reason(device.error)
    if device.landing:
        return device.landing
    if view.broken:
        return "not served: its worker has died, and the guest has not reconnected"
    if counters.stopped != "none":
        return {"no-space": "stopped: no space left for the image", "flush-failed": "stopped: a flush failed",
                "io-error": "stopped: an I/O error, tried again at resume"}.get(counters.stopped, "stopped")
    if device.stalls.requests:
        return stalled(device)
    if device.holding.trouble:
        return f"served on, but its image is not claimed: {device.holding.trouble}"
    if view.plane is Plane.STOPPING:
        return f"draining {counters.inflight}"
    if view.phase is Phase.PUBLISHING:
        return "opening the target"
    if view.backend is XenbusState.INITWAIT:
        return "waiting for the guest"
    if view.backend is XenbusState.CLOSING:
        return "waiting for the guest to close"
    return "" if view.online else "detaching"


def stalled(device: Device) -> str:
    """What hangs, in a few words."""
    return f"hangs: no answer for {device.stalls.seconds:.3g} s (requests: {device.stalls.requests})"


def waiting_for(device: Device) -> str:
    """What a time-out is about, as a sentence that names the node to look at."""
    if device.adopting:
        return device.adopting
    if device.error is not None:
        return reason(device.error)
    if device.landing:
        return device.landing
    if device.view.phase is Phase.PUBLISHING:
        return f"the target {device.properties and device.properties.target} is still being opened"
    if device.view.plane is Plane.STOPPING:
        return f"{device.counters().inflight} requests are still with the storage"
    return (f"the guest has not answered {device.view.backend.label}: "
            f"{device.areas.frontend_state} is {_label(device.view.frontend)}")


def _label(state: XenbusState | None) -> str:
    return "none" if state is None else state.label


def _medium(device: Device) -> dict[str, Any]:
    properties, facts = device.properties, device.facts
    known: dict[str, Any] = {"mode": None, "target": None, features.DEVICE_TYPE: None, features.SECTOR_SIZE: None}
    if properties is not None:
        known = {"mode": "ro" if properties.read_only else "rw", "target": properties.target and str(properties.target),
                 features.DEVICE_TYPE: properties.device_type, features.SECTOR_SIZE: properties.logical_block_size}
    engine = (device.agreement and device.serving) or device.engine or None
    return known | {"size": facts and facts.size, "engine": engine, "features": _features(device)}


def _features(device: Device) -> dict[str, Any]:
    """What the guest is offered; None for what is not known yet."""
    properties, facts = device.properties, device.facts
    if properties is None or facts is None:
        return dict.fromkeys(FEATURES)
    offered = (device.agreement is not None and device.persistent, True, properties.barrier,
               features.discard_offered(properties, facts), properties.max_indirect)
    return dict(zip(FEATURES, offered, strict=True))


def _connection(device: Device) -> dict[str, Any]:
    agreement = device.agreement
    if agreement is None:
        return {"protocol": None, "queues": 0, "ring-page-order": None, "event-channels": []}
    return {"protocol": agreement.abi, "queues": len(agreement.queues),
            "ring-page-order": agreement.ring_page_order,
            "event-channels": [queue.event_channel for queue in agreement.queues]}

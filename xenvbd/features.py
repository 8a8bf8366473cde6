"""Every xenstore node of a vbd, once: what we publish, what we read, and what both sides then agreed on.

Names and units are blkif.h's.  Sector counts are in 512-byte units whatever sector-size says: that is its
text since 2024 and what Linux always did; large_sector_units="qemu" counts in sector-size, as QEMU and
Windows do."""
from __future__ import annotations

import errno
import platform
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from xenvbd.errors import Error, PropertyError, ProtocolError
from xenvbd.properties import SECTOR, DiskFacts, Properties, validate
from xenvbd.target import parse_params
from xenvbd.trace import quote
from xenvbd.vdev import from_number

__all__ = ["Agreement", "DiskFacts", "Properties", "QueueAgreement", "validate"]     # and every name below

LIBXL = "/libxl"
# Disks that we attach ourselves are of this kind: the one that every xl knows.  Complete as they appear, they are not
# taken for new by a QEMU that watches it.
OWN_KIND = "qdisk"

# Both areas
STATE = "state"
# The backend area, written by a toolstack or by us when we create it
FRONTEND, FRONTEND_ID, ONLINE = "frontend", "frontend-id", "online"
DEV, TYPE, PARAMS, MODE, DEVICE_TYPE = "dev", "type", "params", "mode", "device-type"
REMOVABLE, BOOTABLE, DISCARD_ENABLE = "removable", "bootable", "discard-enable"
# The backend area, written by us
HOTPLUG_STATUS, HOTPLUG_ERROR, ERROR = "hotplug-status", "hotplug-error", "error"
INFO, SECTORS = "info", "sectors"
SECTOR_SIZE, PHYSICAL_SECTOR_SIZE = "sector-size", "physical-sector-size"
FEATURE_FLUSH_CACHE, FEATURE_BARRIER = "feature-flush-cache", "feature-barrier"
FEATURE_DISCARD = "feature-discard"
DISCARD_GRANULARITY, DISCARD_ALIGNMENT = "discard-granularity", "discard-alignment"
DISCARD_SECURE = "discard-secure"
FEATURE_MAX_INDIRECT_SEGMENTS = "feature-max-indirect-segments"
MAX_RING_PAGE_ORDER, MAX_RING_PAGES = "max-ring-page-order", "max-ring-pages"
MULTI_QUEUE_MAX_QUEUES = "multi-queue-max-queues"
# The frontend area, written by a toolstack or by us when we create it
BACKEND, BACKEND_ID, VIRTUAL_DEVICE, TRUSTED = "backend", "backend-id", "virtual-device", "trusted"
# The frontend area, written by the guest
RING_REF, RING_PAGE_ORDER, NUM_RING_PAGES = "ring-ref", "ring-page-order", "num-ring-pages"
EVENT_CHANNEL, PROTOCOL = "event-channel", "protocol"
MULTI_QUEUE_NUM_QUEUES, QUEUE = "multi-queue-num-queues", "queue-"
FEATURE_LARGE_SECTOR_SIZE = "feature-large-sector-size"
# Both, in the area of the one who offers it
FEATURE_PERSISTENT = "feature-persistent"

VDISK_CDROM, VDISK_READONLY = 1, 4          # bits of info
MAX_PORT = (1 << 17) - 1                    # EVTCHN_FIFO_NR_CHANNELS
MAX_GREF = (1 << 32) - 1
X86_32, X86_64, NATIVE = "x86_32-abi", "x86_64-abi", "native"

Get = Callable[[str], bytes | None]         # a node of one area by its name in it, None if there is none


def backend_path(backend_domid: int, kind: str, domid: int, devid: int) -> str:
    """The backend area of a vbd."""
    return f"/local/domain/{backend_domid}/backend/{kind}/{domid}/{devid}"


def frontend_path(domid: int, devid: int) -> str:
    """The frontend area of a vbd."""
    return f"/local/domain/{domid}/device/vbd/{devid}"


def libxl_path(domid: int, devid: int) -> str:
    """Where libxl keeps its own copy of a vbd's nodes, out of the guest's reach: a disk that is not there is none for
    `xl block-list`, `xl block-detach` and `xl destroy`."""
    return f"{LIBXL}/{domid}/device/vbd/{devid}"


def backend_permissions(backend_domid: int, domid: int) -> list[str]:
    """The backend owns its area, the guest reads it, nobody else sees it."""
    return [f"n{backend_domid}", f"r{domid}"]


def frontend_permissions(backend_domid: int, domid: int) -> list[str]:
    """The guest owns its area; the backend that created it may write, or else it could not remove it."""
    return [f"n{domid}", f"b{backend_domid}"]


# --- publishing ---

def backend_keys(props: Properties, facts: DiskFacts) -> dict[str, bytes]:
    """The nodes that make the backend area ready for InitWait; the state itself comes after them."""
    order = props.max_ring_page_order
    keys: dict[str, str | int] = {
        HOTPLUG_STATUS: "connected",
        MODE: "r" if props.read_only else "w",
        INFO: _info(props),
        SECTORS: facts.size // props.sector_unit,
        SECTOR_SIZE: props.logical_block_size,
        PHYSICAL_SECTOR_SIZE: physical_sector_size(props, facts),
        MAX_RING_PAGE_ORDER: order,
        MAX_RING_PAGES: 1 << order,         # both schemes: note 3 of blkif.h
        MULTI_QUEUE_MAX_QUEUES: props.max_queues,
        FEATURE_FLUSH_CACHE: 1,
        FEATURE_PERSISTENT: int(persistent_offered(props, facts)),
    }
    if props.barrier:
        keys[FEATURE_BARRIER] = 1
    if props.max_indirect:
        keys[FEATURE_MAX_INDIRECT_SEGMENTS] = props.max_indirect
    return _encode(keys | _discard_keys(props, facts))


def discard_offered(props: Properties, facts: DiskFacts) -> bool:
    """Whether the guest is told that it may discard."""
    return props.discard_enable and facts.can_discard and not props.read_only


def persistent_offered(props: Properties, facts: DiskFacts) -> bool:
    """Whether the guest is told that its pages stay mapped.  Not with direct I/O, whose alignment is more than a byte:
    the kernel must not be given pages of another domain for that (XSA-229)."""
    return props.persistent and facts.alignment == 1


def physical_sector_size(props: Properties, facts: DiskFacts) -> int:
    """The physical block size to publish: as asked, or the largest that the target's size is a multiple of.

    blkif.h demands the latter, and an image is easily 512 bytes longer than a multiple of 4096."""
    if props.physical_block_size is not None:
        return props.physical_block_size
    physical = max(facts.physical_block_size, props.logical_block_size)
    while facts.size % physical:
        physical //= 2
    return physical


def _info(props: Properties) -> int:
    cdrom = VDISK_CDROM if props.device_type == "cdrom" else 0
    return cdrom | (VDISK_READONLY if props.read_only else 0)


def _discard_keys(props: Properties, facts: DiskFacts) -> dict[str, str | int]:
    """All or none: Linux takes granularity without alignment for an error (note 4 of blkif.h)."""
    if not discard_offered(props, facts):
        return {}
    logical = props.logical_block_size
    granularity = props.discard_granularity or facts.discard_granularity or facts.physical_block_size
    granularity = -(-granularity // logical) * logical
    return {FEATURE_DISCARD: 1, DISCARD_GRANULARITY: granularity,
            DISCARD_ALIGNMENT: facts.discard_alignment % granularity, DISCARD_SECURE: 0}


def identity_keys(props: Properties, kind: str) -> dict[str, bytes]:
    """The nodes that a toolstack writes into a backend area, for an area that we create ourselves."""
    return _encode({
        FRONTEND: frontend_path(props.domid, props.vdev.number),
        FRONTEND_ID: props.domid,
        ONLINE: 1,
        DEV: props.vdev.name,
        TYPE: kind,
        PARAMS: f"aio:{props.target}",      # OVMF takes a cdrom without params for empty
        DEVICE_TYPE: props.device_type,
        REMOVABLE: int(props.device_type == "cdrom"),
        BOOTABLE: 1,
        DISCARD_ENABLE: int(props.discard_enable),
    })


def libxl_keys(props: Properties, backend_domid: int, kind: str) -> dict[str, bytes]:
    """libxl's copy of an area that we create ourselves."""
    identity = identity_keys(props, kind)
    return identity | _encode({
        BACKEND: backend_path(backend_domid, kind, props.domid, props.vdev.number),
        MODE: "r" if props.read_only else "w", STATE: 1})


def frontend_keys(props: Properties, backend_domid: int, kind: str) -> dict[str, bytes]:
    """The nodes of a frontend area that we create ourselves, its state included."""
    return _encode({
        BACKEND: backend_path(backend_domid, kind, props.domid, props.vdev.number),
        BACKEND_ID: backend_domid,
        VIRTUAL_DEVICE: props.vdev.number,
        DEVICE_TYPE: props.device_type,
        TRUSTED: int(props.trusted),
        STATE: 1,
    })


def _encode(keys: dict[str, str | int]) -> dict[str, bytes]:
    return {name: str(value).encode(errors="surrogateescape") for name, value in keys.items()}


# --- reading ---

def number(value: bytes, low: int, high: int, *, path: str | None = None,
           cls: type[Error] = ProtocolError) -> int:
    """A decimal number from xenstore.  Digits only: int() would take "1_000", " 5" and "+5".

    cls, with what was found and what was expected, if it is none or out of range."""
    if re.fullmatch(rb"[0-9]{1,20}", value) and low <= int(value) <= high:
        return int(value)
    raise cls(errno.EPROTO, f"found {quote(value)}, expected a number from {low} to {high}", path=path)


@dataclass(frozen=True)
class _Area:
    """One area while it is read: get, its path, and the class of error that wrong nodes are."""

    get: Get
    path: str
    cls: type[Error]

    def error(self, name: str, value: bytes | None, expected: str) -> Error:
        found = "nothing" if value is None else quote(value)
        return self.cls(errno.EPROTO, f"found {found}, expected {expected}", path=f"{self.path}/{name}")

    def number(self, name: str, low: int, high: int) -> int:
        value = self.get(name)
        if value is None:
            raise self.error(name, value, f"a number from {low} to {high}")
        return number(value, low, high, path=f"{self.path}/{name}", cls=self.cls)

    def optional(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        return default if self.get(name) is None else self.number(name, low, high)

    def choice(self, name: str, choices: dict[bytes, str], default: str | None = None) -> str:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if value not in choices:
            raise self.error(name, value, " or ".join(choice.decode() for choice in choices))
        return choices[value]


_MODES = {b"r": "r", b"w": "w", b"ro": "r", b"rw": "w", b"w!": "w"}


def read_properties(get: Get, backend_domid: int, kind: str, domid: int, devid: int) -> Properties:
    """What a toolstack asks for in the backend area that it made.  PropertyError names the node.

    Nothing is taken from the frontend's area, which the guest can write (XSA-175, XSA-178).  direct-io-safe
    does not concern us: direct I/O is done on copies, so pages cannot outlive a request."""
    area = _Area(get, backend_path(backend_domid, kind, domid, devid), PropertyError)
    expected = frontend_path(domid, devid)
    if get(FRONTEND) != expected.encode():
        raise area.error(FRONTEND, get(FRONTEND), expected)
    area.number(FRONTEND_ID, domid, domid)
    params = get(PARAMS)
    if params is None:
        raise area.error(PARAMS, params, "the target")
    return Properties(
        domid=domid, vdev=from_number(devid), target=parse_params(params),
        mode=area.choice(MODE, _MODES), share=get(MODE) == b"w!",
        device_type=area.choice(DEVICE_TYPE, {b"disk": "disk", b"cdrom": "cdrom"}, "disk"),
        discard_enable=bool(area.optional(DISCARD_ENABLE, 0, 1, 1)))


@dataclass(frozen=True)
class QueueAgreement:
    """One ring: the grant references of its pages in order, and the frontend's event channel port."""

    ring_refs: tuple[int, ...]
    event_channel: int


@dataclass(frozen=True)
class Agreement:
    """What a connection is made of.

    abi is "x86_32-abi", "x86_64-abi" or "native"; sector_unit the bytes of one sector in a request;
    persistent whether the frontend keeps its grants and we were asked to keep them mapped."""

    domid: int
    devid: int
    abi: str
    queues: tuple[QueueAgreement, ...]
    persistent: bool = False
    sector_unit: int = SECTOR

    @property
    def ring_page_order(self) -> int:
        return len(self.queues[0].ring_refs).bit_length() - 1

    def same_rings(self, other: Agreement) -> bool:
        """Whether both are of the same rings, as far as numbers tell; what else was agreed on may differ."""
        return (self.abi, self.queues) == (other.abi, other.queues)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Agreement:
        queues = tuple(QueueAgreement(tuple(queue["ring_refs"]), queue["event_channel"])
                       for queue in fields["queues"])
        return cls(**(fields | {"queues": queues}))


def read_agreement(get: Get, props: Properties, machine: str = platform.machine()) -> Agreement:
    """What the frontend asks for in its area; get should read in one transaction.

    ProtocolError names the path, what was found there and what was expected.  machine decides what an absent
    protocol means: x86_32-abi on x86, as Linux and QEMU have it, though blkif.h says native."""
    area = _Area(get, frontend_path(props.domid, props.vdev.number), ProtocolError)
    if props.sector_unit != SECTOR:
        area.number(FEATURE_LARGE_SECTOR_SIZE, 1, 1)
    names = _ring_names(area, props.max_ring_page_order)
    count = area.optional(MULTI_QUEUE_NUM_QUEUES, 1, props.max_queues, 1)
    prefixes = [""] if count == 1 else [f"{QUEUE}{index}/" for index in range(count or 1)]
    return Agreement(
        domid=props.domid, devid=props.vdev.number, abi=_abi(area, machine),
        queues=tuple(_queue(area, prefix, names) for prefix in prefixes),
        persistent=bool(area.optional(FEATURE_PERSISTENT, 0, 1, 0)) and props.persistent, sector_unit=props.sector_unit)


def _ring_names(area: _Area, max_order: int) -> list[str]:
    """The names of the ring's grant references.  ring-page-order, even 0, means numbered ones; without it a
    stale ring-ref0 of an earlier frontend must not be read."""
    order = area.optional(RING_PAGE_ORDER, 0, max_order)
    pages = area.optional(NUM_RING_PAGES, 1, 1 << max_order)
    if order is None and (pages is None or pages == 1):
        return [RING_REF]
    if order is None:
        order = (pages or 1).bit_length() - 1
    if pages is not None and pages != 1 << order:
        expected = f"a power of two, equal to 2^{RING_PAGE_ORDER}"
        raise area.error(NUM_RING_PAGES, area.get(NUM_RING_PAGES), expected)
    return [f"{RING_REF}{index}" for index in range(1 << order)]


def _queue(area: _Area, prefix: str, names: list[str]) -> QueueAgreement:
    return QueueAgreement(tuple(area.number(prefix + name, 1, MAX_GREF) for name in names),
                          area.number(prefix + EVENT_CHANNEL, 1, MAX_PORT))


def _abi(area: _Area, machine: str) -> str:
    if machine in ("x86_64", "i686", "i586", "i486", "i386"):
        return area.choice(PROTOCOL, {b"x86_32-abi": X86_32, b"x86_64-abi": X86_64}, X86_32)
    return area.choice(PROTOCOL, {b"arm-abi": NATIVE}, NATIVE)

"""What is asked of a disk (Properties), what its target is (DiskFacts), whether the two fit (validate)."""
from __future__ import annotations

import errno
from dataclasses import dataclass, fields
from typing import Any

from xenvbd.errors import PropertyError
from xenvbd.target import Target, other_way
from xenvbd.vdev import Vdev

SECTOR = 512                                # the unit of every sector number of blkif.h
PAGE = 4096
MAX_PHYSICAL = 2 << 20
MAX_ORDER = 4                               # rings of up to 16 pages
MAX_QUEUES = 16
MAX_INDIRECT = 256
MAX_POLL_US = 1000
READ_ERRORS = ("report", "stop")
WRITE_ERRORS = ("enospc", "report", "stop")
DOMID_FIRST_RESERVED = 0x7ff0


@dataclass(frozen=True)
class Properties:
    """What an administrator or a toolstack asks for.  Sizes in bytes; None: as the target has it.

    mode is "r" or "w"; share allows other writers that allow it too (xl's "w!"); lock: claim
    the image against others, which its file system must have locks for; device_type is "disk" or
    "cdrom" (always read-only).  poll_us: how
    long to look for requests before sleeping, at most.  rerror, werror: QEMU's names for what becomes of a read or
    write that failed: it is answered with an error ("report"), or kept until it succeeds ("stop"; "enospc": for want of
    room only)."""

    domid: int
    vdev: Vdev
    target: Target | None
    mode: str = "w"
    share: bool = False
    lock: bool = True
    device_type: str = "disk"
    logical_block_size: int = SECTOR
    physical_block_size: int | None = None
    discard_enable: bool = True
    discard_granularity: int | None = None
    max_ring_page_order: int = MAX_ORDER
    max_queues: int = 1
    max_indirect: int = MAX_INDIRECT
    barrier: bool = False
    persistent: bool = False
    poll_us: int = 0
    rerror: str = "report"
    werror: str = "enospc"
    direct: bool | None = None
    large_sector_units: str = "spec"
    trusted: bool = True

    @property
    def read_only(self) -> bool:
        return self.mode == "r" or self.device_type == "cdrom"

    @property
    def is_image(self) -> bool:
        """Whether the target is a file or a block device."""
        return self.target is not None and self.target.scheme == "file"

    @property
    def sector_unit(self) -> int:
        """The bytes that one sector of `sectors` and of a request stands for."""
        return self.logical_block_size if self.large_sector_units == "qemu" else SECTOR


@dataclass(frozen=True)
class DiskFacts:
    """What an open target is, in bytes; alignment: what the engine's offsets and lengths are multiples of; content: the
    format that an image looks like, by QEMU's name, which decides nothing."""

    size: int
    read_only: bool = False
    logical_block_size: int = SECTOR
    physical_block_size: int = SECTOR
    alignment: int = 1
    can_discard: bool = False
    discard_granularity: int = 0
    discard_alignment: int = 0
    content: str = ""

    @classmethod
    def of(cls, disk: Any) -> DiskFacts:
        """The facts of anything that has them as attributes: a Disk.  What it contains is not among them."""
        return cls(**{field.name: getattr(disk, field.name) for field in fields(cls) if field.name != "content"})


def validate(props: Properties, facts: DiskFacts) -> None:
    """Raise PropertyError, saying what is wrong, why, and what was expected, unless all is well."""
    for check in (_check_identity, _check_limits, _check_blocks, _check_multiples):
        check(props)
    _check_target(props, facts)


def _require(good: bool, message: str, number: int = errno.EINVAL) -> None:
    if not good:
        raise PropertyError(number, message)


def _check_identity(props: Properties) -> None:
    _require(0 <= props.domid < DOMID_FIRST_RESERVED,
             f"frontend domid {props.domid} is no guest's: expected 0 to {DOMID_FIRST_RESERVED - 1}")
    _require(props.mode in ("r", "w"), f"mode {props.mode!r}: expected r or w")
    _require(props.device_type in ("disk", "cdrom"),
             f"device-type {props.device_type!r}: expected disk or cdrom")
    for name, value, known in (("rerror", props.rerror, READ_ERRORS), ("werror", props.werror, WRITE_ERRORS)):
        _require(value in known, f"{name} {value!r}: expected {' or '.join(known)}")
    _require(props.large_sector_units in ("spec", "qemu"),
             f"large-sector-units {props.large_sector_units!r}: expected spec or qemu")
    _require(props.target is not None,
             f"the {props.device_type} has no medium: expected a target, because blkif knows no empty drive",
             errno.ENOMEDIUM)


def _check_limits(props: Properties) -> None:
    for name, value, low, high in (
            ("max-ring-page-order", props.max_ring_page_order, 0, MAX_ORDER),
            ("max-queues", props.max_queues, 1, MAX_QUEUES),
            ("max-indirect-segments", props.max_indirect, 0, MAX_INDIRECT),
            ("poll-us", props.poll_us, 0, MAX_POLL_US)):
        _require(low <= value <= high, f"{name} {value} is out of range: expected {low} to {high}")


def _check_blocks(props: Properties) -> None:
    logical, physical = props.logical_block_size, props.physical_block_size
    for name, value, high in (("logical", logical, PAGE), ("physical", physical or SECTOR, MAX_PHYSICAL)):
        _require(SECTOR <= value <= high and value & (value - 1) == 0,
                 f"{name}-block-size {value}: expected a power of two from {SECTOR} to {high}")
    _require(physical is None or logical <= physical,
             f"logical-block-size {logical} is larger than physical-block-size {physical}: expected a "
             "physical block that holds whole logical ones")


def _check_multiples(props: Properties) -> None:
    logical = props.logical_block_size
    granularity = props.discard_granularity or 0
    _require(0 <= granularity < 1 << 32 and granularity % logical == 0,
             f"discard-granularity {granularity}: expected a multiple of the logical-block-size {logical} below 4 GiB, "
             "or the guest could not use it")
    _require(not granularity or props.discard_enable,
             f"discard-granularity {granularity} has no meaning without discard: leave one of them out")


def _check_target(props: Properties, facts: DiskFacts) -> None:
    logical, physical = props.logical_block_size, props.physical_block_size
    _require(facts.size > 0, f"target {props.target} is empty: expected at least one sector")
    _require(facts.size % logical == 0,
             f"target {props.target} has {facts.size} bytes: expected a multiple of the logical-block-size "
             f"{logical}, or its end could not be reached{_as_it_looks(props, facts)}")
    _require(physical is None or facts.size % physical == 0,
             f"target {props.target} has {facts.size} bytes: expected a multiple of the physical-block-size "
             f"{physical}, as blkif.h demands{_as_it_looks(props, facts)}")
    _require(logical % facts.alignment == 0,
             f"logical-block-size {logical} is below the {facts.alignment} bytes that target {props.target} "
             f"takes at once: expected logical-block-size {facts.alignment} (--sector-size), or I/O that is not direct "
             "(--no-direct, direct-io = false)")
    _require(props.read_only or not facts.read_only,
             f"mode w, but target {props.target} is read-only: attach it read-only (--ro, access=ro)", errno.EROFS)


def _as_it_looks(props: Properties, facts: DiskFacts) -> str:
    """Images of other formats have any size: what to do with one, if it looks like that."""
    if not facts.content or props.target is None:
        return ""
    return f"; it looks like an image of format {facts.content}: {other_way(facts.content, props.target.path)}"

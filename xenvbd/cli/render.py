"""What people and programs read: tables, indented facts, JSON, figures with three significant digits."""
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xenvbd import units

Disk = Mapping[str, Any]

LIST_HEADER = ("DISK", "STATE", "SIZE", "MODE", "TARGET", "RINGS", "GRANTS", "NOTE")


def as_json(value: Any) -> str:
    """One line of JSON; a list of disks is one array."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned to their widest cell, two spaces between, no trailing blanks."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Name and value a line, the values aligned."""
    rows = list(pairs)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


def state(disk: Disk) -> str:
    """The state of a disk in one word: the backend's, or both where the two ends differ."""
    ends = disk.get("state") or {}
    back, front = ends.get("backend") or "-", ends.get("frontend") or "-"
    return str(back) if back == front or front == "-" else f"{back}/{front}"


def rings(disk: Disk) -> str:
    """Queues times pages of a ring, as in 4x16p; "-" before the disk is connected."""
    queues, order = disk.get("queues"), disk.get("ring-page-order")
    return f"{queues}x{1 << order}p" if queues and order is not None else "-"


def grants(disk: Disk) -> str:
    """How the guest's pages are reached: copy, map or persistent; "-" before the disk is connected."""
    if rings(disk) == "-":
        return "-"
    return "persistent" if (disk.get("features") or {}).get("persistent") else "copy"


def disk_size(disk: Disk) -> str:
    """The size of a disk for people, "-" while it is not known."""
    return "-" if disk.get("size") is None else units.format_size(disk["size"])


def disk_row(disk: Disk) -> tuple[str, ...]:
    """One line of `xenvbd list`."""
    return (disk["disk"], state(disk), disk_size(disk), disk.get("mode") or "-", disk.get("target") or "-",
            rings(disk), grants(disk), disk.get("note") or "")


def disk_table(disks: Sequence[Disk]) -> str:
    """What `xenvbd list` prints."""
    return table(LIST_HEADER, [disk_row(disk) for disk in disks])


def flat(value: Any) -> str:
    """A JSON value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {flat(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(flat(inner) for inner in value)
    return "-" if value is None else str(value)


def disk_facts(disk: Disk) -> str:
    """What `xenvbd show` prints: every fact on a line of its own, the size in bytes beside the human one."""
    pairs = []
    for name, value in disk.items():
        if name == "stats":
            continue
        if name == "size" and value is not None:
            pairs.append((name, f"{units.format_size(value)} ({value} bytes)"))
        elif value not in (None, "", [], {}):
            pairs.append((name, flat(value)))
    return facts(pairs)


def significant(value: float) -> str:
    """Three significant digits, never in exponent form, at most four decimals: 0.0123, 1.23, 12.3, 123, 1234."""
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(4, max(0, decimals))}f}"


def rate(per_second: float) -> str:
    """A count a second: 812, 38.1k, 1.20M."""
    for limit, suffix in ((1e6, "M"), (1e4, "k")):
        if per_second >= limit:
            scaled = per_second / (1e3 if suffix == "k" else 1e6)
            return f"{significant(scaled)}{suffix}"
    return f"{per_second:.0f}"


def bandwidth(bytes_per_second: float) -> str:
    """MB/s, decimal, as fio and disks' labels have it."""
    return f"{significant(bytes_per_second / 1e6)} MB/s"


def latency(nanoseconds: float | None) -> str:
    """A latency for people: 812 ns, 31.2 us, 4.21 ms, 1.20 s; "-" if there was none."""
    if nanoseconds is None:
        return "-"
    for limit, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if nanoseconds >= limit:
            return f"{significant(nanoseconds / limit)} {unit}"
    return f"{nanoseconds:.0f} ns"

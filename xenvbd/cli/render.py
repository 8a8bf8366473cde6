"""What people and programs read: tables, indented facts, JSON, figures with three significant digits."""
from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from xenvbd import errors, text, units
from xenvbd.text import cut, cut_start, padded, printable, quoted, width

Disk = Mapping[str, Any]

LEAST_COLUMNS = 12                  # of a target in a table
LIST_HEADER = ("DISK", "ID", "STATE", "SIZE", "MODE", "TARGET", "RINGS", "GRANTS", "NOTE")


def as_json(value: Any) -> str:
    """One line of JSON; a list of disks is one array."""
    return text.as_json(value, separators=(",", ":"), ensure_ascii=False)


def error(exc: OSError, status: int, hint: str | None) -> str:
    """What is said of a failure with --json."""
    return as_json({"error": {**errors.to_json(exc), "exit-status": status, "hint": hint}})


def terminal(out: TextIO) -> os.terminal_size | None:
    """The size of the terminal that this is; None if it is none, or tells no size (a serial line)."""
    try:
        size = os.get_terminal_size(out.fileno()) if out.isatty() else None
    except (OSError, ValueError):
        return None
    return size if size and size.columns and size.lines else None


def table(header: Sequence[str], rows: Iterable[Sequence[str]], columns: int | None = None,
          long: int | None = None) -> str:
    """Columns aligned to their widest cell, two spaces between, no trailing blanks.

    columns: of the terminal, which no line is wider than; long: the column that is cut first, at its start."""
    lines = [tuple(header), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(width(line[i]) for line in lines) for i in range(len(header))]
    if columns is not None and long is not None:
        excess = sum(widths) + 2 * (len(widths) - 1) - columns
        widths[long] = min(widths[long], max(widths[long] - excess, LEAST_COLUMNS))
        lines = [(*line[:long], cut_start(line[long], widths[long]), *line[long + 1:]) for line in lines]
    whole = ("  ".join(map(padded, line, widths)).rstrip() for line in lines)
    return "\n".join(whole if columns is None else (cut(line, columns) for line in whole))


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Name and value a line, the values aligned."""
    rows = list(pairs)
    widest = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(widest)}  {printable(value)}".rstrip() for name, value in rows)


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
    return (quoted(disk["disk"]), flat(disk.get("domid")), state(disk), disk_size(disk), disk.get("mode") or "-",
            disk.get("target") or "-", rings(disk), grants(disk), disk.get("note") or "")


def disk_table(disks: Sequence[Disk], columns: int | None = None) -> str:
    """What `xenvbd list` prints, on a terminal of so many columns."""
    return table(LIST_HEADER, [disk_row(disk) for disk in disks], columns, LIST_HEADER.index("TARGET"))


def word(disk: Disk) -> str:
    """The disk as one word of any command line: by its domain's number if the name would need quoting, or is shown
    other than it is."""
    name = str(disk["disk"])
    return name if quoted(name) == name or disk.get("domid") is None else f"{disk['domid']}:{disk['name']}"


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
        if name == "warnings":
            pairs += [("warning", text) for text in value]
        elif name == "size" and value is not None:
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

"""Trace events with QEMU's names as structured log records, and logging that a guest cannot flood or forge.

A record goes to the logger "xenvbd.trace" at level INFO with its name and its fields; EVENTS lists all.  An
event that is not enabled costs one look into a set."""
from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from xenvbd.text import as_json, printable

logger = logging.getLogger("xenvbd.trace")

# Name -> its fields.  The names are those of QEMU's trace-events files, where it has them; disk stands for their type
# and name.
EVENTS: dict[str, tuple[str, ...]] = {
    "xen_bus_realize": ("kind", "path"),
    "xen_bus_unrealize": ("kind", "path"),
    "xen_bus_enumerate": ("path",),
    "xen_bus_cleanup": ("path",),
    "xen_bus_type_enumerate": ("kind",),
    "xen_bus_backend_create": ("kind", "path"),
    "xen_bus_device_cleanup": ("disk", "path"),
    "xen_bus_add_watch": ("path",),
    "xen_bus_remove_watch": ("path",),
    "xen_device_realize": ("disk", "path"),
    "xen_device_unrealize": ("disk", "path"),
    "xen_device_backend_state": ("disk", "state"),
    "xen_device_backend_online": ("disk", "online"),
    "xen_device_backend_changed": ("disk",),
    "xen_device_frontend_state": ("disk", "state"),
    "xen_device_frontend_changed": ("disk",),
    "xen_device_unplug": ("disk", "force"),
    "xen_device_add_watch": ("disk", "path"),
    "xen_device_remove_watch": ("disk", "path"),
    "xs_node_create": ("path",),
    "xs_node_destroy": ("path",),
    "xs_node_vprintf": ("path", "value"),
    "xs_node_read": ("path", "value"),
    "xs_node_watch": ("path",),
    "xs_node_unwatch": ("path",),
    "xen_block_realize": ("disk", "target", "mode"),
    "xen_block_connect": ("disk", "protocol", "queues", "ring_page_order", "event_channels"),
    "xen_block_disconnect": ("disk", "reason"),
    "xen_block_unrealize": ("disk",),
    "xen_block_plane_event": ("disk", "kind", "detail"),       # ours: QEMU's data plane tells nothing
    "xen_block_stall": ("disk", "requests", "seconds"),        # ours: 0 requests when it has passed
    "xen_block_size": ("disk", "sectors"),
    "xen_block_blockdev_add": ("disk", "target", "engine"),
    "xen_block_blockdev_del": ("disk", "target"),
    "xen_block_device_create": ("disk", "number"),
    "xen_block_device_destroy": ("disk", "number"),
    "xen_disk_realize": ("disk",),
    "xen_disk_unrealize": ("disk",),
    "xen_cdrom_realize": ("disk",),
    "xen_cdrom_unrealize": ("disk",),
}

_enabled: frozenset[str] = frozenset()


def enable(patterns: Iterable[str]) -> frozenset[str]:
    """Enable the events that match one of the patterns ("xen_block_*"), and no others; return their names."""
    global _enabled
    wanted = list(patterns)
    _enabled = frozenset(name for name in EVENTS if any(fnmatchcase(name, pattern) for pattern in wanted))
    logger.setLevel(logging.INFO)       # whatever the level of the log: who enables an event wants to see it
    return _enabled


def matches(pattern: str) -> bool:
    """Whether there is an event that the pattern matches."""
    return any(fnmatchcase(name, pattern) for name in EVENTS)


def enabled(name: str) -> bool:
    """Whether the event would be written: for fields that are dear to compute."""
    return name in _enabled


def event(name: str, **fields: object) -> None:
    """Write one event; fields are those of EVENTS, or fewer.  Bytes are shown escaped."""
    if name not in _enabled:
        return
    shown = {key: quote(value) if isinstance(value, bytes) else value for key, value in fields.items()}
    text = "".join(f" {key}={_word(value)}" for key, value in fields.items())
    logger.info("%s%s", name, text, extra={"event": name, "fields": shown})


def quote(value: bytes | str, limit: int = 64) -> str:
    """What a guest wrote, fit for a log line: printable ASCII, in quotes, cut after limit bytes."""
    data = value if isinstance(value, bytes) else value.encode(errors="backslashreplace")
    text = ascii(data[:limit].decode("latin-1"))
    return text if len(data) <= limit else f"{text}... ({len(data)} bytes)"


def _word(value: object) -> str:
    """A field's value as one word, or quoted."""
    if isinstance(value, bytes):
        return quote(value)
    word = str(value)
    plain = word and printable(word) == word and not any(letter in " \"'=" for letter in word)
    return word if plain else ascii(word)


class TextFormatter(logging.Formatter):
    """Lines for people; what is not printable is escaped: nobody forges lines or drives terminals."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n" if record.exc_info else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (seconds), level, logger, and event with its fields, or message."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {"time": round(record.created, 6), "level": record.levelname.lower(),
                                 "logger": record.name}
        if name := getattr(record, "event", None):
            entry = getattr(record, "fields", {}) | entry | {"event": name}
        else:
            entry["message"] = record.getMessage()
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return as_json(entry, default=str)


class Limiter:
    """Log lines that a guest can cause: at most so many in any 60 seconds.

    The others are counted, and their number is the first line that is written again."""

    def __init__(self, per_minute: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=per_minute)
        self.suppressed = 0

    def log(self, to: logging.Logger, level: int, message: str, *args: object) -> bool:
        """Write the line to the logger if the rate allows it; say whether."""
        if self.suppressed and self._take():
            to.log(level, "lines like the next that were suppressed: %d", self.suppressed)
            self.suppressed = 0
        if self.suppressed or not self._take():
            self.suppressed += 1
            return False
        to.log(level, message, *args)
        return True

    def _take(self) -> bool:
        now = self._clock()
        full = len(self._times) == self._times.maxlen
        if full and now - self._times[0] < 60:
            return False
        self._times.append(now)
        return True

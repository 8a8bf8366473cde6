"""The form of the log, which a manager and its workers write to the same stderr: for people, for systemd's journal, or
as JSON lines."""
from __future__ import annotations

import logging
import os
import sys
import time

from xenvbd import trace

# sd-daemon(3): what a line must begin with for the journal to know its level.
LEVELS = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
TEXT, JOURNAL, JSON = "text", "journal", "json"
DATE = "%Y-%m-%d %H:%M:%S"

_form, _level = TEXT, logging.INFO


class JournalFormatter(trace.TextFormatter):
    """TextFormatter's line behind a level that systemd reads; the journal keeps the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{LEVELS.get(record.levelno, 6)}>{super().format(record)}"


FORMATTERS: dict[str, logging.Formatter] = {
    TEXT: trace.TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", DATE),
    JOURNAL: JournalFormatter("%(name)s: %(message)s"),
    JSON: trace.JsonFormatter()}


def set_up(form: str, level: int) -> None:
    """Log to stderr in this form, from now on."""
    global _form, _level
    _form, _level = form, level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATTERS[form])
    logging.basicConfig(level=level, handlers=[handler], force=True)


def suitable() -> str:
    """The journal's form if that is what reads stderr (systemd.exec(5): JOURNAL_STREAM), else a person's."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return TEXT
    return JOURNAL if os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}" else TEXT


def word() -> str:
    """What makes another process log as this one does."""
    return f"{_form}:{_level}"


def follow(manager: str) -> None:
    """Log as the manager does that gave this word().  To be called before the process locks itself down."""
    form, _, level = manager.partition(":")
    time.localtime()                                # now: later the zone's file cannot be read
    logging.logProcesses = False                    # nor the process be asked for with each line
    set_up(form, int(level))

"""Where the daemon's log goes: stderr, for a terminal, for systemd's journal, or as JSON lines."""
from __future__ import annotations

import argparse
import logging
import os
import sys

from xenvbd import trace
from xenvbd.config import Config

# sd-daemon(3): what a line must begin with for the journal to know its level.
LEVELS = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class JournalFormatter(trace.TextFormatter):
    """TextFormatter's line behind a level that systemd reads; the journal keeps the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{LEVELS.get(record.levelno, 6)}>{super().format(record)}"


def formatter(as_json: bool) -> logging.Formatter:
    """The form of a line: JSON, the journal's if systemd started us, else a person's."""
    if as_json:
        return trace.JsonFormatter()
    if "JOURNAL_STREAM" in os.environ:
        return JournalFormatter("%(name)s: %(message)s")
    return trace.TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")


def level(options: argparse.Namespace, found: Config) -> int:
    """-v and -q before the configuration."""
    if options.verbose:
        return logging.DEBUG
    return logging.WARNING if options.quiet else int(getattr(logging, found.log_level.upper()))


def set_up(options: argparse.Namespace, found: Config) -> None:
    """Log to stderr, and write the trace events that the configuration names, whatever the level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(options.json))
    logging.basicConfig(level=level(options, found), handlers=[handler], force=True)
    trace.enable(found.trace)

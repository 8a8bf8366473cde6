"""The log of the daemon as the command line and the configuration want it."""
from __future__ import annotations

import argparse
import logging

from xenvbd import logs, trace
from xenvbd.config import Config


def level(options: argparse.Namespace, found: Config) -> int:
    """-v and -q before the configuration."""
    if options.verbose:
        return logging.DEBUG
    return logging.WARNING if options.quiet else int(getattr(logging, found.log_level.upper()))


def set_up(options: argparse.Namespace, found: Config) -> None:
    """Log to stderr, and write the trace events that the configuration names, whatever the level."""
    logs.set_up(logs.JSON if options.json else logs.suitable(), level(options, found))
    trace.enable(found.trace)

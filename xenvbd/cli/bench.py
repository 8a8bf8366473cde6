"""`xenvbd bench`: what a target gives through the real backend, with a simulated guest in a process of its own."""
from __future__ import annotations

import argparse
import errno

from xenvbd.cli import attach, work
from xenvbd.cli import options as types
from xenvbd.errors import PropertyError

NAME = "bench"
HELP = "measure a target through the real backend, with a simulated guest"
EPILOG = "The guest's latencies are from putting a request on the ring to taking its response off it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("target", metavar="TARGET", help="/path, file:/path, null:SIZE or mem:SIZE")
    parser.add_argument("--size", metavar="SIZE", type=types.size,
                        help="use only so much of the disk, from its start (default: all)")
    parser.add_argument("--kills", metavar="N", type=types.positive, default=0,
                        help="kill the worker so many times, and measure how long the guest waits")
    parser.add_argument("--progress", metavar="FD", type=int, help="write N/100 lines to this descriptor")
    work.add_options(parser, rw="randread", seconds=5.0)
    attach.add_disk_options(parser)


def run(options: argparse.Namespace) -> int:
    """Print the figures."""
    # Here, not above: list and show need not load a machine.
    from xenvbd.cli import measure
    if options.kills and options.target.startswith("mem:"):
        raise PropertyError(errno.EINVAL, "memory is lost with its worker: --kills wants a file or null:SIZE")
    return measure.run(options)

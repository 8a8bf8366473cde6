"""`xenvbd sim`: a whole machine in one process tree, with a live view and every byte checked."""
from __future__ import annotations

import argparse

from xenvbd.cli import options as types
from xenvbd.cli import work

NAME = "sim"
HELP = "run a whole machine without Xen: store, daemon, guests that write, read back and check a disk"
EPILOG = ("Each TARGET goes to a guest in turn; a guest without one gets a new image, removed at the end.  While it "
          "runs, list, show, attach and detach work on it from another terminal, with the --socket that it prints.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("targets", metavar="TARGET", nargs="*", help="/path, file:/path, null:SIZE or mem:SIZE")
    parser.add_argument("--guests", metavar="N", type=types.positive, default=1, help="how many (default: 1)")
    parser.add_argument("--size", metavar="SIZE", type=types.size, default=64 << 20,
                        help="of an image that it makes (default: 64M)")
    parser.add_argument("--keep", action="store_true", help="stay up after the report, until Ctrl-C")
    work.add_options(parser, rw="randrw", seconds=5.0)


def run(options: argparse.Namespace) -> int:
    """0 if every byte was as it should be."""
    # Here, not above: list and show need not load a machine.
    from xenvbd.cli import simulation
    return simulation.run(options)

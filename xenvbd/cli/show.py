"""`xenvbd show`: all that is known of one disk."""
from __future__ import annotations

import argparse

from xenvbd.cli import client, render
from xenvbd.cli import options as types

NAME = "show"
HELP = "show what was negotiated with a guest, the engine of one disk; with -v the counters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("disk", metavar="DISK", type=types.disk, help="DOMAIN:VDEV, as in web1:xvda")


def run(options: argparse.Namespace) -> int:
    """Facts, one a line; -v adds the counters; everything with --json."""
    disk = client.call(options, "show", disk=options.disk)
    print(render.as_json(disk) if options.json else render.disk_facts(disk))
    if options.verbose and not options.json:
        print(render.facts((name, render.flat(value)) for name, value in disk.get("stats", {}).items()))
    return 0

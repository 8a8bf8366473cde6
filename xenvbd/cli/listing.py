"""`xenvbd list`: the disks of this host, one a line.  (Not list.py: that name is Python's.)"""
from __future__ import annotations

import argparse
import sys

from xenvbd.cli import client, render

NAME = "list"
HELP = "list the disks that the daemon serves"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("--domain", metavar="DOMAIN", help="only the disks of this domain (name or id)")


def run(options: argparse.Namespace) -> int:
    """A table; one word a disk with --quiet; an array with --json."""
    disks = client.call(options, "list", domain=options.domain)["disks"]
    if options.json:
        print(render.as_json(disks))
    elif options.quiet:
        print("".join(f"{render.word(disk)}\n" for disk in disks), end="")
    else:
        size = render.terminal(sys.stdout)
        print(render.disk_table(disks, size and size.columns))
    return 0

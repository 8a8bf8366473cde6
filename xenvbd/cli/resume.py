"""`xenvbd resume`: let a disk that stopped try again."""
from __future__ import annotations

import argparse
import sys

from xenvbd.cli import client, render
from xenvbd.cli import options as types
from xenvbd.text import quoted

NAME = "resume"
HELP = "let a disk that stopped, for want of room or after an error, try again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("disk", metavar="DISK", type=types.disk, help="DOMAIN:VDEV, as in web1:xvda")
    parser.add_argument("--same-content", action="store_true",
                        help="what the disk's path means now has the content of the image that was opened: serve that")


def run(options: argparse.Namespace) -> int:
    """Silent when it worked; the disk with --json or -v.  Says so if there was nothing to do."""
    accept = {"same-content": True} if options.same_content else {}
    disk = client.call(options, "resume", disk=options.disk, **accept)
    if options.json:
        print(render.as_json(disk))
    elif not disk.get("resumed", True):
        print(f"xenvbd: {quoted(options.disk)} had not stopped: there was nothing to try again", file=sys.stderr)
    elif options.verbose:
        print(render.disk_facts(disk))
    return 0

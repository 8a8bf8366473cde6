"""`xenvbd detach`: take a disk from a guest."""
from __future__ import annotations

import argparse

from xenvbd.cli import client, render
from xenvbd.cli import options as types
from xenvbd.text import quoted

NAME = "detach"
HELP = "take a disk from a guest: ask it to close, drain, remove"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("disk", metavar="DISK", type=types.disk, help="DOMAIN:VDEV, as in web1:xvda")
    parser.add_argument("--force", action="store_true", help="do not wait for the guest's consent")
    parser.add_argument("--wait", action=argparse.BooleanOptionalAction, default=True,
                        help="wait until the disk has gone (default), or return once the guest has been asked")


def run(options: argparse.Namespace) -> int:
    """Silent when it worked, as rm is; -v says so."""
    disk = quoted(options.disk)
    with client.told_at_the_end("the guest has been asked, and the disk goes when it lets go of it: `xenvbd explain "
                                f"{disk}` says how far that is"):
        told = client.call(options, "detach", disk=options.disk, force=options.force, wait=options.wait,
                           timeout=options.timeout)
    if options.json:
        print(render.as_json({"disk": told["disk"], "gone": options.wait}))
    elif options.verbose:
        print(f"{disk} detached" if options.wait else f"{disk}: the guest was asked to let go")
    return 0

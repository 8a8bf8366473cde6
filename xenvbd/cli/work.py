"""The load that a simulated guest drives: its options, shared by sim and bench, and the frontend process' arguments."""
from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from xenvbd import target
from xenvbd.cli import options as types
from xenvbd.errors import PropertyError
from xenvbd.target import Target

RW = ("read", "write", "randread", "randwrite", "randrw")
PERSONAS = ("linux", "windows", "freebsd", "minios", "uboot", "ovmf", "grub")
REQUESTS_A_PAGE = 32                    # __CONST_RING_SIZE(blkif, 4096)
READ_ONLY = ("read", "randread")


def add_options(parser: argparse.ArgumentParser, *, rw: str, seconds: float) -> None:
    """The options of a load, with the verb's own defaults."""
    group = parser.add_argument_group("the guest's load")
    group.add_argument("--rw", choices=RW, default=rw, help=f"what it does (default: {rw})")
    group.add_argument("--bs", metavar="SIZE", type=types.block_size, default=4096,
                       help="bytes of a request (default: 4K)")
    group.add_argument("--iodepth", metavar="N", type=types.positive, default=32,
                       help="requests in flight (default: 32)")
    group.add_argument("--queues", metavar="N", type=types.queues, default=1,
                       help="rings, each with so many requests in flight and a thread at either end (default: 1)")
    group.add_argument("--seconds", metavar="TIME", type=types.time_above_zero, default=seconds,
                       help=f"how long (default: {seconds:g}s)")
    group.add_argument("--persona", choices=PERSONAS, default="linux",
                       help="whose frontend it acts like (default: linux)")
    group.add_argument("--poll", action="store_true", help="the guest looks at its ring instead of sleeping")
    group.add_argument("--write-target", action="store_true",
                       help="the load may overwrite the TARGET: what is in it is lost")


def arguments(options: argparse.Namespace) -> list[str]:
    """The frontend process' arguments for the load."""
    words = ["--rw", options.rw, "--bs", str(options.bs), "--iodepth", str(options.iodepth),
             "--seconds", f"{options.seconds:.6f}s", "--ring-page-order", str(ring_page_order(options.iodepth))]
    words += ["--queues", str(options.queues)] if options.queues > 1 else []
    pages = -(-options.bs // 4096)
    # As if the guest's administrator had raised xen_blkfront.max_indirect_segments, which is 32.
    words += ["--indirect", str(pages)] if pages > 32 and options.persona == "linux" else []
    return words + (["--poll"] if options.poll else [])


def check(options: argparse.Namespace) -> None:
    """PropertyError for a load that the guest's frontend could not drive as it is asked for."""
    if options.queues > 1 and options.persona != "linux":
        raise PropertyError(errno.EINVAL, f"--queues {options.queues}: a {options.persona} guest has one ring; leave "
                            "it out, or say --persona linux")


def ring_page_order(iodepth: int) -> int:
    """The smallest ring that so many requests fit into; what the frontend acted like can do is the limit."""
    return next((order for order in range(4) if REQUESTS_A_PAGE << order >= iodepth), 4)


def writes(options: argparse.Namespace) -> bool:
    """Whether the load writes."""
    return options.rw not in READ_ONLY


def resolve(text: str, options: argparse.Namespace) -> Target:
    """The target that a word of the command line means, known to exist and, if it is to be written to, given up.

    PropertyError otherwise."""
    found = target.parse(text, base=os.getcwd())
    if found.scheme != "file":
        return found
    # The daemon follows no symbolic link, so that nobody is led elsewhere; here it is the user's own.
    path = os.path.realpath(found.path)
    if not os.path.exists(path):
        raise PropertyError(errno.ENOENT, f"there is no such file; make one: truncate -s 1G {text}", path=path)
    if writes(options) and not options.write_target:
        raise PropertyError(errno.EPERM, f"--rw {options.rw} overwrites what is in it: give --write-target if that is "
                            "meant, or --rw randread", path=path)
    return Target("file", path=path)


def allowed(targets: Sequence[Target]) -> list[str]:
    """The directories of these targets: what the daemon's policy must allow."""
    return sorted({str(Path(each.path).parent) for each in targets if each.scheme == "file"})

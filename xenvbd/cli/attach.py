"""`xenvbd attach`: give a guest a disk."""
from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from typing import Any

from xenvbd import target
from xenvbd.cli import client, render
from xenvbd.cli import options as types
from xenvbd.errors import PropertyError
from xenvbd.properties import READ_ERRORS, WRITE_ERRORS
from xenvbd.text import printable, quoted

NAME = "attach"
HELP = "give a guest a disk, and wait until it has connected"
EPILOG = ("TARGET is /path, file:/path, null:SIZE or mem:SIZE.  DISKSPEC is xl's, as in "
          "'vdev=xvdb,format=raw,target=/srv/web1.img'; a word with a comma or a key=value is taken for one.")

DISKSPEC = re.compile(r"[a-z][a-z-]*=|[^,]*,", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("domain", metavar="DOMAIN", help="name or id of the guest's domain")
    parser.add_argument("target", metavar="TARGET|DISKSPEC", help="what backs the disk, or all of it as xl writes it")
    parser.add_argument("vdev", metavar="VDEV", nargs="?", type=types.vdev_name,
                        help="the guest's name for it, as in xvda (default: the first free)")
    parser.add_argument("--ro", action="store_true", help="read-only")
    parser.add_argument("--share", action="store_true",
                        help="let others write to it that say so too, as xl's mode w! does")
    parser.add_argument("--lock", choices=("on", "off"),
                        help="off: serve an image whose file system has no locks, or a dead host's; nothing keeps "
                        "other writers out then (default: on)")
    parser.add_argument("--cdrom", action="store_true", help="a cdrom drive with this medium; read-only")
    parser.add_argument("--wait", action=argparse.BooleanOptionalAction, default=True,
                        help="wait until the guest has connected (default), or return once the disk is offered; a disk "
                        "that was waited for in vain stays offered")
    add_disk_options(parser)


def add_disk_options(parser: argparse.ArgumentParser) -> None:
    """The properties of a disk that attach and bench share."""
    group = parser.add_argument_group("the disk")
    group.add_argument("--sector-size", metavar="BYTES", type=types.logical_block_size,
                       help="the guest's smallest request (default: 512)")
    group.add_argument("--physical-sector-size", metavar="BYTES", type=types.physical_block_size,
                       help="what the guest should align to (default: the target's)")
    group.add_argument("--no-discard", dest="discard", action="store_false", help="offer no discard")
    group.add_argument("--persistent", action="store_true",
                       help="offer persistent grants: the guest's pages stay mapped, data is not copied")
    group.add_argument("--poll-us", metavar="N", type=int,
                       help="look for requests for up to so many microseconds before sleeping (default: 0)")
    group.add_argument("--rerror", choices=READ_ERRORS,
                       help="a read that fails: report it to the guest, or stop, and keep it (default: report)")
    group.add_argument("--werror", choices=WRITE_ERRORS,
                       help="a write that fails: report it, stop, or stop for want of room only (default: enospc)")
    group.add_argument("--direct", action=argparse.BooleanOptionalAction,
                       help="bypass, or use, the host's page cache (default: bypass where the target can)")
    group.add_argument("--ring-page-order", metavar="N", type=int, choices=range(5),
                       help="largest ring to offer, 2^N pages (default: 4)")


def run(options: argparse.Namespace) -> int:
    """Print the disk's name; the whole of it with --json or -v."""
    params = disk_params(options)
    with client.told_at_the_end(f"what was begun goes on: `xenvbd list --domain {quoted(options.domain)}` shows "
                                "whether the disk is offered, and `xenvbd detach` takes it back"):
        disk = client.call(options, "attach", domain=options.domain, wait=options.wait, timeout=options.timeout,
                           **params)
    if options.json:
        print(render.as_json(disk))
    elif options.verbose:
        print(render.disk_facts(disk))
    elif not options.quiet:
        print(render.word(disk))
    warn(options, disk)
    return 0


def warn(options: argparse.Namespace, disk: dict[str, Any]) -> None:
    """Say on standard error what an administrator should know of a disk that works; JSON has it already."""
    for warning in () if options.json or options.quiet else disk.get("warnings", ()):
        print(f"xenvbd: {quoted(disk['disk'])}: warning: {printable(warning)}", file=sys.stderr)


def disk_params(options: argparse.Namespace) -> dict[str, Any]:
    """What the daemon is asked for: xenstore's spelling of the properties; absent means the default."""
    params = from_diskspec(options.target) if is_diskspec(options) else from_target(options.target, options.vdev)
    if options.ro:
        params["mode"] = "r"
    if options.share:
        params["share"] = True
    if options.lock:
        params["lock"] = options.lock == "on"
    if options.cdrom:
        params |= {"device-type": "cdrom", "mode": "r"}
    return params | properties(options)


def properties(options: argparse.Namespace) -> dict[str, Any]:
    """The options of add_disk_options() that were given."""
    given = {"discard-enable": None if options.discard else False, "logical-block-size": options.sector_size,
             "physical-block-size": options.physical_sector_size, "direct": options.direct,
             "persistent": options.persistent or None, "poll-us": options.poll_us,
             "rerror": options.rerror, "werror": options.werror,
             "max-ring-page-order": options.ring_page_order}
    return {name: value for name, value in given.items() if value is not None}


def is_diskspec(options: argparse.Namespace) -> bool:
    """A DISKSPEC stands alone, and has a comma or a key=value; a path with a comma is written target=PATH."""
    return options.vdev is None and bool(DISKSPEC.match(options.target))


def from_target(text: str, vdev: str | None) -> dict[str, Any]:
    """Parameters of the form TARGET [VDEV]; a relative path is taken from the working directory."""
    params: dict[str, Any] = {"target": str(target.parse(text, base=os.getcwd())), "mode": "w"}
    return params | ({"vdev": vdev} if vdev else {})


def from_diskspec(text: str) -> dict[str, Any]:
    """Parameters of xl's syntax; what only a toolstack can do is refused."""
    spec = target.parse_diskspec(text)
    for name in ("backend", "backendtype", "script"):
        if getattr(spec, name):
            raise PropertyError(errno.EINVAL, f"{name}={getattr(spec, name)} is for xl block-attach; leave it out here")
    if spec.target is None:
        raise PropertyError(errno.ENOMEDIUM, f"{text!r} names no medium: expected target=PATH")
    params: dict[str, Any] = {"target": str(spec.target), "mode": spec.mode, "device-type": spec.device_type}
    if spec.share:
        params["share"] = True
    if spec.vdev:
        params["vdev"] = spec.vdev.name
    if spec.direct_io_safe:
        params["direct"] = True
    for name, asked in (("discard-enable", spec.discard), ("trusted", spec.trusted)):
        if asked is not None:
            params[name] = asked
    return params

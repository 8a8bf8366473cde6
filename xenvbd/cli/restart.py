"""`xenvbd restart`: replace workers or the manager, under guests that go on: the way to another version."""
from __future__ import annotations

import argparse
import errno
import sys
import time
from typing import Any

from xenvbd import __version__, errors
from xenvbd.cli import client, render
from xenvbd.cli import options as types
from xenvbd.text import printable, quoted

NAME = "restart"
HELP = "replace a disk's worker, the manager, or all of them, without the guests noticing more than a pause"
LOOK_SECONDS = 0.05
FIELDS = ("disk", "domid", "was", "pid", "version")         # of what was replaced: of a manager disk is None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--worker", metavar="DISK", type=types.disk,
                      help="the process that serves this disk, and with it all disks of its domain")
    what.add_argument("--manager", action="store_true", help="the daemon; workers serve on")
    what.add_argument("--all", action="store_true", help="the daemon, then one worker after the other")


def run(options: argparse.Namespace) -> int:
    """Say what became of every disk; with --json, what was replaced by what."""
    done = [_manager(options)] if options.manager or options.all else []
    if options.worker:
        done.append(_worker(options, options.worker))
    elif options.all:
        _workers(options, done)
    if options.json:
        print(render.as_json(done))
        return 0
    for each in done:
        print("\n".join(f"{quoted(name)}: served on by process {each['pid']}" for name in each.get("disks") or ())
              or f"{quoted(each['disk'] or 'manager')}: process {each['pid'] or '-'}")
    for sentence in _undone(options, done):
        print(f"xenvbd: {printable(sentence)}", file=sys.stderr)
    return 0


def _undone(options: argparse.Namespace, done: list[dict[str, Any]]) -> list[str]:
    """What was not done because there was nothing to do, as sentences."""
    if options.all and len(done) == 1:
        return ["no worker was replaced: there is no connected disk"]
    return [f"{quoted(each['disk'])}: its worker (process {each['was']}) has ended, and no disk of the domain was "
            "connected: the next one starts with the next disk that is"
            for each in done if each["was"] and not each["pid"]]


def _manager(options: argparse.Namespace) -> dict[str, Any]:
    """Tell it, and wait for the next, which has the same process but another time of its start."""
    before = client.call(options, "restart")
    deadline = time.monotonic() + options.timeout
    while time.monotonic() < deadline:
        try:
            now = client.call(options, "ping")
        except errors.ControlError:
            now = before
        if now["started"] != before["started"]:
            return dict.fromkeys(FIELDS) | {"pid": now["pid"], "version": now["version"]}
        time.sleep(LOOK_SECONDS)
    raise errors.ControlError(errno.ETIMEDOUT, f"the manager did not come back in {options.timeout:g} s; workers "
                              f"serve on, `xenvbd serve` of version {__version__} takes them over")


def _worker(options: argparse.Namespace, disk: str) -> dict[str, Any]:
    return dict.fromkeys(FIELDS) | client.call(options, "restart", disk=disk, timeout=options.timeout)


def _workers(options: argparse.Namespace, done: list[dict[str, Any]]) -> None:
    """One after the other, and those too that come after one that is not replaced; what was done goes to done.

    Raises the first refusal, with what was done; the others are printed."""
    refused: list[errors.Error] = []
    for disk in _disks(options):
        try:
            done.append(_worker(options, disk))
        except errors.ControlError:             # nobody is there for the others either
            raise
        except errors.Error as exc:
            refused.append(exc)
    for other in refused[1:]:
        print(f"xenvbd: {printable(str(other))}", file=sys.stderr)
    for first in refused[:1]:
        replaced = ", ".join(quoted(each["disk"]) if each["disk"] else "the manager" for each in done)
        raise type(first)(first.errno or errno.EIO, f"{first.message} (replaced: {replaced})",
                          disk=first.disk, path=first.path)


def _disks(options: argparse.Namespace) -> list[str]:
    """A disk of each domain that has a worker which serves disks, or should, by number: a name may be another's when
    its turn comes."""
    disks = client.call(options, "list")["disks"]
    of = {disk["domid"]: f"{disk['domid']}:{disk['name']}" for disk in disks
          if disk["pid"] is not None and disk["plane"] != "none"}
    return list(of.values())

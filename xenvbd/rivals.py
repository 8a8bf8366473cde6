"""Other backends that have a kind of disk, or those of one guest: two on one ring would destroy its data.

Found in /proc and /sys; nothing is asked of them.
"""
from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KERNEL_BACKEND = "sys/bus/xen-backend/drivers/vbd"


@dataclass(frozen=True)
class Rival:
    """name: who it is, as in "QEMU (process 812)"; advice: what an administrator can do about it."""

    name: str
    advice: str


def find(kind: str, domid: int | None = None, *, root: str = "/") -> Rival | None:
    """Who serves backend/KIND on this host, or, with a domid, the disks of that guest.  root: of /proc and /sys."""
    if kind == "vbd":
        return _kernel(Path(root))
    if kind == "vbd3":
        return _named(Path(root), "tapback", "stop it, or let xenvbd claim another kind")
    if kind == "qdisk":
        return _devd(Path(root)) or (None if domid is None else _qemu(Path(root), domid))
    return None


def _kernel(root: Path) -> Rival | None:
    """The kernel's driver has all of backend/vbd, whatever it serves at the moment."""
    if not (root / KERNEL_BACKEND).exists():
        return None
    return Rival("the kernel's xen-blkback", "unload and blacklist it, or let xenvbd claim another kind")


def _named(root: Path, name: str, advice: str) -> Rival | None:
    pid = next((pid for pid, words in _processes(root) if os.path.basename(words[0]) == name), None)
    return None if pid is None else Rival(f"{name} (process {pid})", advice)


def _devd(root: Path) -> Rival | None:
    """`xl devd` of a driver domain starts a QEMU for each guest with a qdisk."""
    for pid, words in _processes(root):
        if os.path.basename(words[0]) == "xl" and "devd" in words[1:]:
            return Rival(f"xl devd (process {pid})", "stop it (Debian: the xendriverdomain service)")
    return None


def _qemu(root: Path, domid: int) -> Rival | None:
    """libxl gives every QEMU its domain: -xen-domid N; qemu-traditional: -d N."""
    for pid, words in _processes(root):
        option = "-d" if os.path.basename(words[0]) == "qemu-dm" else "-xen-domid"
        if "qemu" in os.path.basename(words[0]) and str(domid) == _value(words, option):
            return Rival(f"QEMU (process {pid})", 'create the guest with device_model_override='
                         '"/usr/lib/xenvbd/xenvbd-dm", or attach the disk with xenvbd attach')
    return None


def _value(words: list[str], option: str) -> str | None:
    return next((value for word, value in itertools.pairwise(words) if word == option), None)


def _processes(root: Path) -> Iterator[tuple[int, list[str]]]:
    """Every process that has a command line, as words."""
    for entry in os.scandir(root / "proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                text = (Path(entry.path) / "cmdline").read_bytes().decode(errors="replace")
                if words := text.rstrip("\0").split("\0"):
                    yield int(entry.name), words

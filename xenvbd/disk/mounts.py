"""Mount tables, of every mount namespace that a process is in: what is mounted where, and whether it can be written.

A namespace without a process (one that a file keeps) cannot be seen."""
from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OCTAL = re.compile(r"\\([0-7]{3})")         # of space, tab, newline and backslash


@dataclass(frozen=True)
class Mount:
    """One line of a mountinfo.  device: "8:1", the superblock's; writable: the file system, whatever this mount of it
    is; process: one in whose namespace it is, or None for our own."""

    device: str
    where: str
    kind: str
    source: str
    writable: bool
    process: int | None

    def __str__(self) -> str:
        how = "read-write" if self.writable else "read-only"
        whose = "" if self.process is None else f" in the mount namespace of process {self.process}"
        return f"mounted on {self.where}{whose}, {how}"


def of_device(rdev: int, *, root: str = "/") -> list[Mount]:
    """The mounts of the file system on a block device, ours first.  root: of /proc and /dev."""
    number = f"{os.major(rdev)}:{os.minor(rdev)}"
    anonymous = _of_devices(root)
    return [mount for mount in _all(root) if mount.device == number
            or (mount.device.startswith("0:") and mount.kind in anonymous and _device(root, mount.source) == rdev)]


def of_path(path: str, *, root: str = "/") -> Mount | None:
    """The mount of our namespace that a path lies on, by its name alone: nothing there is looked at."""
    found = [mount for mount in _parsed(_lines(f"{root}/proc/self/mountinfo"), None)
             if Path(path).is_relative_to(mount.where)]
    return max(found, key=lambda mount: len(mount.where), default=None)


def _all(root: str) -> Iterator[Mount]:
    seen: set[str] = set()
    for process in ["self", *_processes(root)]:
        try:
            namespace = os.readlink(f"{root}/proc/{process}/ns/mnt")
            lines = [] if namespace in seen else _lines(f"{root}/proc/{process}/mountinfo")
        except OSError:
            continue
        if lines:
            seen.add(namespace)
        yield from _parsed(lines, None if process == "self" else int(process))


def _processes(root: str) -> list[str]:
    try:
        return sorted((entry for entry in os.listdir(f"{root}/proc") if entry.isdecimal()), key=int)
    except OSError:
        return []


def _parsed(lines: list[str], process: int | None) -> Iterator[Mount]:
    """proc_pid_mountinfo(5): optional fields end at a dash; the last field has the superblock's options."""
    for line in lines:
        words = line.split(" ")
        if len(words) < 10 or "-" not in words[6:]:
            continue
        rest = words[words.index("-", 6) + 1:]
        where = OCTAL.sub(lambda match: chr(int(match[1], 8)), words[4])
        yield Mount(words[2], where, rest[0], rest[1], "rw" in rest[2].split(","), process)


def _of_devices(root: str) -> set[str]:
    """The kinds of file systems that are on block devices; those with an anonymous device are found by their source
    (btrfs), which for any other kind is whatever its user says."""
    return {line.strip() for line in _lines(f"{root}/proc/filesystems") if not line.startswith("nodev")}


def _device(root: str, source: str) -> int | None:
    if not source.startswith("/dev/"):
        return None
    try:
        status = os.stat(root + source)
    except OSError:
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []

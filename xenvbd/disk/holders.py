"""Who holds a lock that is in the way, as /proc knows it.

/proc/locks has all locks of this kernel, each with its file; /proc/PID/fdinfo/N those of a process's description.  A
lock that is in the first and in none of the second is of a process that is dead and whose last write is under way.
One that is in neither is another host's, or the file system keeps it itself (FUSE).

A file is told by device and inode.  The device is the superblock's, which is not what stat says on btrfs or overlay:
/proc/self/mountinfo has it for the mount that a description is of."""
from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xenvbd.errors import ClaimError

# "1: OFDLCK ADVISORY WRITE -1 fe:00:17 0 EOF", with "lock:" before it in fdinfo; one with "->" only waits.
LINE = re.compile(r"(?:lock:\s+)?\d+: (?P<kind>OFDLCK|POSIX)\s+\w+\s+(?P<how>READ|WRITE)\s+(?P<pid>-?\d+)\s+"
                  r"(?P<file>[0-9a-f]+:[0-9a-f]+:\d+)\s+(?P<first>\d+)\s+(?P<last>\d+|EOF)\s*")
END = (1 << 63) - 1
STAT_FLAGS, PF_EXITING = 6, 0x4         # /proc/PID/stat: the field after the command's that has the flags

DisksOf = Callable[[int, os.stat_result], Sequence[str]]
"""The disks ("guest1:xvdd") that a process of ours has on the file of this status.  Called in any thread."""


def nobody(pid: int, status: os.stat_result) -> Sequence[str]:
    """A DisksOf that knows of none."""
    return ()


@dataclass(frozen=True)
class Range:
    """Bytes that are locked, or wanted; last is the last of them."""

    first: int
    last: int
    exclusive: bool

    def conflicts(self, other: Range) -> bool:
        return (self.exclusive or other.exclusive) and self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Lock:
    """One lock of /proc/locks.  pid: of the process that took it; None for those of descriptions."""

    bytes: Range
    pid: int | None


def refusal(fd: int, path: str, wanted: Range, *, disks_of: DisksOf = nobody, ours: bool = False) -> ClaimError:
    """Why these bytes of a file cannot be locked on fd.

    EBUSY: a process holds them, which is named, and its disks if it is ours.  EINPROGRESS: that process is dead, and
    its last write under way: the lock goes by itself.  EREMOTE: the kernel of this host has no such lock; with ours,
    which is that a process of ours had it, as our record says, that is EINPROGRESS too."""
    if names := holders(fd, wanted, disks_of):
        advice = "detach it there" if "(process" in names[0] else "end that"
        return ClaimError(errno.EBUSY, f"locked by {', '.join(names)}; {advice} first", path=path)
    if locks(fd, wanted):
        return ClaimError(errno.EINPROGRESS, "locked by a process that is dead or hidden, whose last writes may still "
                          "be under way", path=path)
    if ours:
        return ClaimError(errno.EINPROGRESS, "locked by its file system, for a worker that is dead", path=path)
    return ClaimError(errno.EREMOTE, "locked by another host, or by its file system itself: no process of this host "
                      "has that lock; detach it there first, or if that host is dead give the lock up with --lock=off",
                      path=path)


def holders(fd: int, wanted: Range | None = None, disks_of: DisksOf = nobody) -> list[str]:
    """Who has a lock on this file that is in the way of wanted (None: any): "guest1:xvdd (process 12, xenvbd-worker 1)"
    or "process 12 (qemu-nbd a.img)"."""
    status, found = os.fstat(fd), list(locks(fd, wanted))
    file = identity(fd)
    pids = {lock.pid for lock in found if lock.pid is not None}
    if any(lock.pid is None for lock in found):
        pids |= set(_describing(file, status, wanted))
    return [name for pid in sorted(pids) if not is_ending(pid) and (name := _named(pid, disks_of(pid, status)))]


def openers(status: os.stat_result, disks_of: DisksOf = nobody) -> list[str]:
    """Who has a block device open, by any of its nodes, named as holders() does."""
    return [name for pid in _processes() if any(_is_open(pid, number, status) for number in _numbers(f"/proc/{pid}/fd"))
            and (name := _named(pid, disks_of(pid, status)))]


def locks(fd: int, wanted: Range | None = None) -> list[Lock]:
    """The locks on this file that the kernel knows and that are in the way of wanted."""
    file = identity(fd)
    found = [lock for line in _lines("/proc/locks") if (lock := _parsed(line, file))]
    return [lock for lock in found if wanted is None or lock.bytes.conflicts(wanted)]


def is_shown(fd: int) -> bool:
    """Whether the kernel knows a lock of this very description; not if the file system keeps locks itself."""
    return any(line.startswith("lock:") for line in _lines(f"/proc/self/fdinfo/{fd}"))


def identity(fd: int) -> str:
    """The file of a descriptor as lock lines name it: "fe:00:17"."""
    status = os.fstat(fd)
    facts = dict(line.split(":", 1) for line in _lines(f"/proc/self/fdinfo/{fd}") if ":" in line)
    device = _superblock(facts.get("mnt_id", "").strip()) or (os.major(status.st_dev), os.minor(status.st_dev))
    inode = facts.get("ino", "").strip() or str(status.st_ino)          # Linux 5.14
    return f"{device[0]:02x}:{device[1]:02x}:{inode}"


def _superblock(mount: str) -> tuple[int, int] | None:
    """The device of a mount's superblock; None if it is not in our namespace (any more)."""
    for line in _lines("/proc/self/mountinfo"):
        words = line.split(maxsplit=3)
        if words[0] == mount:
            major, minor = words[2].split(":")
            return int(major), int(minor)
    return None


def _parsed(line: str, file: str) -> Lock | None:
    match = LINE.fullmatch(line)
    if match is None or match["file"] != file:
        return None
    last = END if match["last"] == "EOF" else int(match["last"])
    pid = int(match["pid"])
    return Lock(Range(int(match["first"]), last, match["how"] == "WRITE"), pid if pid > 0 else None)


def _describing(file: str, status: os.stat_result, wanted: Range | None) -> Iterator[int]:
    """The processes that have a description with such a lock.  The file is compared itself as well: subvolumes of a
    btrfs share the superblock, and inode numbers."""
    for pid in _processes():
        for descriptor in _numbers(f"/proc/{pid}/fdinfo"):
            found = [lock for line in _lines(f"/proc/{pid}/fdinfo/{descriptor}")
                     if line.startswith("lock:") and (lock := _parsed(line, file))]
            if any(wanted is None or lock.bytes.conflicts(wanted) for lock in found) and _is(pid, descriptor, status):
                yield pid
                break


def _is_open(pid: int, descriptor: int, status: os.stat_result) -> bool:
    """Only what is in /dev is looked at: to look at a file of a server that is gone takes for ever."""
    link = f"/proc/{pid}/fd/{descriptor}"
    try:
        return os.readlink(link).startswith("/dev/") and os.stat(link).st_rdev == status.st_rdev
    except OSError:
        return False


def _is(pid: int, descriptor: int, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/fd/{descriptor}"), status)
    except OSError:
        return False


def is_ending(pid: int) -> bool:
    """Whether it was killed, or ends by itself, and still has what it had open: it waits for its last writes."""
    fields = " ".join(_lines(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    if len(fields) > STAT_FLAGS and int(fields[STAT_FLAGS]) & PF_EXITING:
        return True
    pending = [line.split()[1] for line in _lines(f"/proc/{pid}/status") if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(int(signals, 16) >> (signal.SIGKILL - 1) & 1 for signals in pending)


def _processes() -> list[int]:
    return _numbers("/proc")


def _numbers(directory: str) -> list[int]:
    """The entries of a directory that are numbers; none for a process that is gone or not ours to see."""
    try:
        return [int(entry) for entry in os.listdir(directory) if entry.isdecimal()]
    except OSError:
        return []


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _named(pid: int, disks: Sequence[str]) -> str:
    """Empty for a process that is gone: its locks of the old kind are too."""
    command = command_of(pid)
    if not command:
        return ""
    return f"{', '.join(disks)} (process {pid}, {command})" if disks else f"process {pid} ({command})"


def command_of(pid: int) -> str:
    """What a process was started as, in 60 characters at most; empty if it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
        words = words or Path(f"/proc/{pid}/comm").read_bytes().strip()
    except OSError:
        return ""
    return ascii(words[:60].decode(errors="replace"))[1:-1]

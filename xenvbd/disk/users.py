"""What of this host uses an image already, beside other disks: mounts, swap, LVM and RAID, loop devices.

O_EXCL says for a block device whether the kernel has a user of it, and this module who.  What O_EXCL does not see is a
loop device over a file or a device, and what is done with the file beneath a loop device.  Only /proc, /sys and /dev
are read.  What Xen's own script allows (tools/hotplug/Linux/block) is: to read what is mounted read-only, and anything
to writers that share (w!)."""
from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xenvbd.disk import loops, mounts
from xenvbd.disk.holders import DisksOf, Range, holders, locks, nobody, openers
from xenvbd.errors import ClaimError

DEEPEST = 8                             # device over device
PROBES, PROBE_SECONDS = 5, 0.02         # for another's look whether it is free
QEMU_WRITES = Range(101, 101, True)     # qemu_locks.USED + WRITE


@dataclass(frozen=True)
class Use:
    """who: as in "mounted on /srv, read-write"; advice: what an administrator can do; writes: it may change what is
    read there."""

    who: str
    advice: str
    writes: bool


def check(fd: int, path: str, *, read_only: bool, exclusive: bool = False, disks_of: DisksOf = nobody) -> None:
    """Refuse an image (a description of it) that this host uses already: for a writer any use, for a reader one that
    writes.

    exclusive: fd is a block device's, opened with O_EXCL.  Raises ClaimError (EBUSY) that names it, and what to do."""
    status = os.fstat(fd)
    found = [use for use in uses(status, disks_of=disks_of) if use.writes or not read_only]
    is_busy = stat.S_ISBLK(status.st_mode) and not exclusive and not _is_free(fd)
    if found or (is_busy and not uses(status)):
        raise refusal(status, path, found, disks_of)


def refusal(status: os.stat_result, path: str, found: list[Use] | None = None,
            disks_of: DisksOf = nobody) -> ClaimError:
    """The ClaimError for a device that cannot be had for oneself (EBUSY), or for what uses() found."""
    found = uses(status, disks_of=disks_of) if found is None else found
    if found:
        who, advice = "; ".join(use.who for use in found), found[0].advice
    elif names := openers(status, disks_of):
        who, advice = f"open in {', '.join(names)}", "detach it there, or end that"
    else:
        who, advice = "something has it for itself (swap, LVM, RAID, a file system)", "find that with lsblk and end it"
    return ClaimError(errno.EBUSY, f"in use: {who}; {advice} first", path=path)


def uses(status: os.stat_result, *, root: str = "/", disks_of: DisksOf = nobody) -> list[Use]:
    """Every use of a file or block device that can be found; root: of /proc, /sys and /dev."""
    if not stat.S_ISBLK(status.st_mode):
        return [*_swap(status, root), *_loops_over(status, root, 0)]
    found = list(_device(status.st_rdev, root, 0))
    for name, rdev, relation in _relatives(status.st_rdev, root):
        found += [Use(f"its {relation} {name} is {use.who}", use.advice, use.writes)
                  for use in _device(rdev, root, 0, beneath=False)]
    return found + list(_beneath(status.st_rdev, root, disks_of))


Layer = tuple[str, int, int]            # "device", its number, 0; or "file", device, inode


def share_storage(one: os.stat_result, other: os.stat_result, *, root: str = "/") -> bool:
    """Whether what is written to one file or block device can change what is read from the other: they are the same, or
    a disk and its partition, or one is a loop device over the other's file."""
    mine, theirs = _layers(one, root), _layers(other, root)
    relatives = {("device", rdev, 0) for what, number, _ in mine if what == "device"
                 for _, rdev, _ in _relatives(number, root)}
    return bool((mine | relatives) & theirs)


def _layers(status: os.stat_result, root: str) -> set[Layer]:
    """What it is, and what is beneath it while it is a loop device."""
    if not stat.S_ISBLK(status.st_mode):
        return {("file", status.st_dev, status.st_ino)}
    found: set[Layer] = {("device", status.st_rdev, 0)}
    for loop in loops.all_loops(root=root):
        if loop.rdev == status.st_rdev:
            found.add(("device", loop.backing, 0) if loop.backing else ("file", *loop.file))
    return found


def _device(rdev: int, root: str, depth: int, *, beneath: bool = True) -> Iterator[Use]:
    """The uses of one device, and of those that are over it."""
    for mount in mounts.of_device(rdev, root=root)[:1]:
        yield Use(str(mount), f"unmount {mount.where}", mount.writable)
    status = status_of(rdev)
    yield from _swap(status, root)
    yield from _stacked(rdev, root, depth)
    if beneath:
        yield from _loops_over(status, root, depth)


def _stacked(rdev: int, root: str, depth: int) -> Iterator[Use]:
    """Device mapper and RAID; what is written there counts, not that it is there."""
    for holder in _entries(_sysfs(rdev, root) / "holders"):
        name = _text(holder / "dm/name") or holder.name
        above = list(_device(_number(holder), root, depth + 1)) if depth < DEEPEST else []
        yield Use(f"part of {name}" + "".join(f", which is {use.who}" for use in above[:1]),
                  above[0].advice if above else f"take {name} down", any(use.writes for use in above))


def _loops_over(status: os.stat_result, root: str, depth: int) -> Iterator[Use]:
    """Loop devices over a file or a device; one that is read-only, and not used itself, harms nobody."""
    for loop in loops.all_loops(root=root):
        if not loop.is_over(status):
            continue
        above = list(_device(loop.rdev, root, depth + 1)) if depth < DEEPEST else []
        if above or not loop.read_only:
            advice = f"{above[0].advice} and " if above else ""
            yield Use(f"under /dev/{loop.name}" + "".join(f", which is {use.who}" for use in above[:1]),
                      f"{advice}take it down (losetup --detach /dev/{loop.name})", any(use.writes for use in above))


def _beneath(rdev: int, root: str, disks_of: DisksOf) -> Iterator[Use]:
    """Who else uses the file that a loop device is over."""
    own = next((loop for loop in loops.all_loops(root=root) if loop.rdev == rdev), None)
    if own is None:
        return
    for loop in loops.all_loops(root=root):
        if loop.rdev != rdev and loop.file == own.file:
            yield Use(f"over {own.path}, as /dev/{loop.name} is", f"take that down (losetup --detach /dev/{loop.name})",
                      not loop.read_only)
    yield from _locked(own, disks_of)


def _locked(own: loops.Loop, disks_of: DisksOf) -> Iterator[Use]:
    """Whoever has a lock on the file beneath a loop device, unless it is no more what its path leads to."""
    try:
        fd = os.open(own.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        if own.is_over(status) and (names := holders(fd, None, disks_of)):
            writes = any(lock.bytes.exclusive or lock.bytes.conflicts(QEMU_WRITES) for lock in locks(fd))
            yield Use(f"over {own.path}, which is locked by {', '.join(names)}", "detach it there, or end that", writes)
    finally:
        os.close(fd)


def _swap(status: os.stat_result, root: str) -> Iterator[Use]:
    for line in _text(Path(root, "proc/swaps")).splitlines()[1:]:
        name = line.split()[0].replace("\\040", " ")
        try:
            found = os.stat(root + name)
        except OSError:
            continue
        if (stat.S_ISBLK(found.st_mode) and found.st_rdev == status.st_rdev) or os.path.samestat(found, status):
            yield Use("swap", f"swapoff {name}", True)


def _relatives(rdev: int, root: str) -> Iterator[tuple[str, int, str]]:
    """(name, number, what it is) of a disk's partitions, or of a partition's disk."""
    device = _sysfs(rdev, root)
    if (device / "partition").exists():
        whole = device.resolve().parent
        yield whole.name, _number(whole), "whole disk"
        return
    for entry in _entries(device):
        if (entry / "partition").exists():
            yield entry.name, _number(entry), "partition"


def _is_free(fd: int) -> bool:
    """Whether a block device could be had for oneself.  Others look as well, for a moment."""
    for _ in range(PROBES):
        try:
            os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                return True             # it says nothing about others
        time.sleep(PROBE_SECONDS)
    return False


def _sysfs(rdev: int, root: str) -> Path:
    return Path(root, f"sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")


def status_of(rdev: int) -> os.stat_result:
    """A status that stands for a block device of that number."""
    return os.stat_result((stat.S_IFBLK, 0, 0, 0, 0, 0, 0, 0, 0, 0), {"st_rdev": rdev})


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _number(device: Path) -> int:
    major, _, minor = _text(device / "dev").strip().partition(":")
    return os.makedev(int(major or 0), int(minor or 0))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""

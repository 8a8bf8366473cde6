"""A real ext4: what the kernel writes to the disk below it while files are written and synced, and whether an image of
that disk still has what was synced."""
from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.power.fuse import OPERATION, SYNC, WRITE

SIZE = 12 << 20


class Operation(NamedTuple):
    """A write, or (data None) a sync."""

    offset: int
    data: bytes | None


class Trace(NamedTuple):
    """operations: in their order; promises: after how many syncs fsync(2) had returned, of which file."""

    operations: list[Operation]
    promises: list[tuple[int, str]]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def content(name: str) -> bytes:
    return (f"{name} ".encode() * 2000)[:9000]


def trace(directory: Path, files: int) -> Trace:
    """Make an ext4, and write and sync so many files on it.  OSError, CalledProcessError: it cannot be done here."""
    disk, record, place = directory / "disk", directory / "record", directory / "place"
    disk.touch()
    place.mkdir()
    process = subprocess.Popen([sys.executable, "-P", Path(__file__).with_name("fuse.py"), disk, str(SIZE), record],
                               stdout=subprocess.PIPE, env=os.environ)
    with contextlib.ExitStack() as stack:
        stack.callback(process.wait, 30)
        stack.callback(process.kill)
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        if process.stdout.readline() != b"ready\n":
            raise OSError("FUSE cannot be mounted")
        stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=False)
        loop = run("losetup", "--find", "--show", "--direct-io=on", str(disk))
        stack.callback(subprocess.run, ["losetup", "-d", loop], check=False)
        run("mkfs.ext4", "-q", "-b", "4096", "-J", "size=4", loop)
        run("mount", "-o", "nodiscard,commit=1", loop, str(place))
        try:
            synced = write_files(place, files)
        finally:
            run("umount", str(place))
    return Trace(*read(record, synced))


def write_files(place: Path, files: int) -> list[tuple[str, int]]:
    """Each file, and when it and its directory had been synced."""
    synced, directory = [], os.open(place, os.O_RDONLY)
    for number in range(files):
        name = f"file{number}"
        with open(place / f"{name}.new", "wb") as file:
            file.write(content(name))
            os.fsync(file.fileno())
        os.rename(place / f"{name}.new", place / name)
        (place / "noise").write_bytes(os.urandom(20000))    # never synced
        os.fsync(directory)
        synced.append((name, time.monotonic_ns()))
    os.close(directory)
    return synced


def read(record: Path, synced: list[tuple[str, int]]) -> tuple[list[Operation], list[tuple[int, str]]]:
    data, at, operations, syncs = record.read_bytes(), 0, [], []
    while at < len(data):
        kind, offset, length, when = OPERATION.unpack_from(data, at)
        at += OPERATION.size
        if kind == WRITE:
            operations.append(Operation(offset, data[at:at + length]))
        elif kind == SYNC:
            operations.append(Operation(0, None))
            syncs.append(when)
        at += length
    return operations, [(sum(when < returned for when in syncs), name) for name, returned in synced]


def missing(image: Path, place: Path, names: list[str]) -> list[str]:
    """What is wrong with an image: files that are not there as they were synced, and what e2fsck finds once the kernel
    has replayed its journal."""
    wrong = []
    run("mount", "-o", "loop", str(image), str(place))
    try:
        for name in names:
            path = place / name
            if not path.exists() or path.read_bytes() != content(name):
                wrong.append(f"{name} is not as it was synced")
    finally:
        run("umount", str(place))
    checked = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    return wrong + ([checked.stdout] if checked.returncode else [])

"""A real ext4: what the kernel writes to the disk below it while something works on it, that written by a guest, and
images of that disk as a power cut leaves them."""
from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.crash.planes import Planes
from tests.crash.workload import BLOCK
from tests.power import fuse
from tests.power.fuse import OPERATION, SYNC
from tests.power.replay import FLUSH, NEVER, Done, recorded
from tests.support.guest import OKAY, WRITE, Guest

SIZE = 12 << 20
PIECE = 8 * BLOCK                   # of one request
DEPTH = 24


class Operation(NamedTuple):
    """A write, or (data None) a sync."""

    offset: int
    data: bytes | None


class Trace(NamedTuple):
    """operations: in their order; promises: after how many syncs it was told that this is there for good."""

    operations: list[Operation]
    promises: list[tuple[int, str]]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def trace(directory: Path, work: Callable[[Path], list[tuple[str, int]]]) -> Trace:
    """Make an ext4 and have something work on it, which returns what is to last, and since when.

    OSError, CalledProcessError: it cannot be done here."""
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
            synced = work(place)
        finally:
            run("umount", str(place))
    return Trace(*read(record, synced))


def read(record: Path, synced: list[tuple[str, int]]) -> tuple[list[Operation], list[tuple[int, str]]]:
    data, at, operations, syncs = record.read_bytes(), 0, [], []
    while at < len(data):
        kind, offset, length, when = OPERATION.unpack_from(data, at)
        at += OPERATION.size
        if kind == fuse.WRITE:
            operations.append(Operation(offset, data[at:at + length]))
        elif kind == SYNC:
            operations.append(Operation(0, None))
            syncs.append(when)
        at += length
    return operations, [(sum(when < returned for when in syncs), name) for name, returned in synced]


def replay(guest: Guest, operations: list[Operation]) -> list[int]:
    """Have the guest write all that, as much at once as fits, and flush where the file system did.  When each flush was
    answered."""
    pages = [guest.pages(PIECE // BLOCK) for _ in range(DEPTH)]
    busy: list = []
    flushed = []

    def settle() -> None:
        assert set(guest.finish(*busy, timeout=60)) <= {OKAY}
        busy.clear()

    for operation in operations:
        if operation.data is None:
            settle()
            assert guest.flush() == OKAY
            flushed.append(time.monotonic_ns())
            continue
        assert operation.offset % BLOCK == len(operation.data) % BLOCK == 0, "the judge knows whole blocks"
        for at in range(0, len(operation.data), PIECE):
            if len(busy) == DEPTH:
                settle()
            piece, page = operation.data[at:at + PIECE], pages[len(busy)]
            page.bytes[:len(piece)] = piece
            request = guest.request(WRITE, (operation.offset + at) // 512, page.segments(len(piece) // 512))
            busy.append(request)
            guest.submit(request)
    settle()
    return flushed


class Life(NamedTuple):
    """Of a guest that wrote a trace.  history: what its backend asked of the storage; flushed: see replay()."""

    trace: Trace
    history: list[Done]
    flushed: list[int]

    def cuts(self, image: Path, generator: Random, count: int) -> Iterator[list[str]]:
        """So many images, one after the other, each with what was promised until the power went."""
        first = self.flushed[self.trace.promises[0][0] - 1]
        moments = [time for done in self.history for time in (done.begin, done.end) if first <= time < NEVER]
        for moment in generator.sample(moments, min(count, len(moments))):
            cut(image, self.history, moment, generator)
            yield [what for syncs, what in self.trace.promises if self.flushed[syncs - 1] <= moment]


def live(machine, forker, traced: Trace, engine: str, record: Path) -> Life:
    """Have a guest write it to a disk of this engine."""
    machine.add_domain(1)
    guest = Guest(machine, 1)
    with tempfile.TemporaryDirectory(prefix="xenvbd-", dir="/dev/shm") as directory:
        planes = Planes(forker, machine, guest, directory, engine=engine, record=str(record))
        with open(planes.image, "wb") as file:
            file.truncate(SIZE)
        try:
            planes.start()
            assert planes.serving()
            flushed = replay(guest, traced.operations)
        finally:
            planes.end()
            guest.close()
    return Life(traced, recorded(str(record)), flushed)


def cut(image: Path, history: list[Done], moment: int, generator: Random) -> None:
    """The image after a power cut: what was flushed, and any part of the rest that had been begun."""
    flushed = max((done.begin for done in history if done.kind == FLUSH and done.end <= moment), default=0)
    begun = [done for done in history if done.begin <= moment and done.content]
    durable = [done for done in begun if done.end <= flushed]
    rest = [done for done in begun if done.end > flushed]
    some = generator.sample(rest, generator.randint(0, len(rest)))
    write(image, [(block * BLOCK, data) for done in [*durable, *some] for block, data in done.content.items()])


def write(image: Path, pieces: list[tuple[int, bytes]]) -> None:
    with open(image, "wb") as file:
        file.truncate(SIZE)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)


def wrong(image: Path, place: Path, look: Callable[[Path], list[str]]) -> list[str]:
    """What is wrong with an image: what look() finds once the kernel has replayed its journal, and what e2fsck does."""
    place.mkdir(exist_ok=True)
    run("mount", "-o", "loop", str(image), str(place))
    try:
        found = look(place)
    finally:
        run("umount", str(place))
    checked = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    return found + ([checked.stdout] if checked.returncode else [])

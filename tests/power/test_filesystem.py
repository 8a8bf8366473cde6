"""A guest's ext4 after a power cut: what the kernel writes below a real one, replayed by a guest through a data plane,
and cut at moments of chance, with any part of what was not flushed."""
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.crash.planes import Planes
from tests.crash.workload import BLOCK
from tests.power.filesystem import SIZE, missing, trace
from tests.power.replay import FLUSH, NEVER, recorded
from tests.power.test_power import ALL
from tests.support.guest import OKAY, WRITE, Guest

FILES, CUTS = (40, 400) if ALL else (6, 8)
PIECE = 8 * BLOCK                   # of one request
DEPTH = 24


@pytest.fixture(scope="module")
def ext4():
    """What the kernel wrote to the disk of an ext4."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            return trace(Path(directory), FILES)
        except (OSError, subprocess.CalledProcessError) as exc:
            pytest.skip(f"no ext4 over FUSE and a loop device here: {getattr(exc, 'stderr', exc)!r}")


def replay(guest, operations):
    """Have the guest write all that, as much at once as fits, and flush where the file system did.  When each flush was
    answered."""
    pages, busy, flushed = [guest.pages(PIECE // BLOCK) for _ in range(DEPTH)], [], []

    def settle():
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


def cut(image, history, moment, generator):
    """The image after a power cut: what was flushed, and any part of the rest that had been begun."""
    flushed = max((done.begin for done in history if done.kind == FLUSH and done.end <= moment), default=0)
    begun = [done for done in history if done.begin <= moment and done.content]
    durable = [done for done in begun if done.end <= flushed]
    rest = [done for done in begun if done.end > flushed]
    some = generator.sample(rest, generator.randint(0, len(rest)))
    with open(image, "wb") as file:
        file.truncate(SIZE)
        for done in [*durable, *some]:
            for block, data in done.content.items():
                file.seek(block * BLOCK)
                file.write(data)


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_an_ext4_has_what_was_synced_and_is_whole_after_any_power_cut(machine, forker, ext4, tmp_path, engine):
    machine.add_domain(1)
    guest, generator = Guest(machine, 1), random.Random(1)
    with tempfile.TemporaryDirectory(prefix="xenvbd-", dir="/dev/shm") as directory:
        planes = Planes(forker, machine, guest, directory, engine=engine, record=str(tmp_path / "record"))
        with open(planes.image, "wb") as file:
            file.truncate(SIZE)
        try:
            planes.start()
            assert planes.serving()
            flushed = replay(guest, ext4.operations)
        finally:
            planes.end()
            guest.close()
    history = recorded(tmp_path / "record")
    first = flushed[ext4.promises[0][0] - 1]
    moments = [time for done in history for time in (done.begin, done.end) if first <= time < NEVER]
    place = tmp_path / "place"
    place.mkdir()
    for moment in generator.sample(moments, min(CUTS, len(moments))):
        promised = [name for syncs, name in ext4.promises if flushed[syncs - 1] <= moment]
        cut(tmp_path / "image", history, moment, generator)
        assert missing(tmp_path / "image", place, promised) == [] and promised
    cuts = min(CUTS, len(moments))
    print(f"\n{engine}: ext4 of {len(ext4.operations)} writes and syncs, {cuts} cuts", file=sys.stderr)


def test_a_disk_that_lost_what_was_flushed_would_be_found(machine, forker, ext4, tmp_path):
    """The judge can say no: what the file system wrote, without what it wrote last before the last sync of a file."""
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    writes = [operation for operation in ext4.operations if operation.data is not None]
    with open(image, "wb") as file:
        file.truncate(SIZE)
        for operation in writes[:len(writes) * 2 // 3]:
            file.seek(operation.offset)
            file.write(operation.data)
    assert missing(image, place, [name for _, name in ext4.promises])

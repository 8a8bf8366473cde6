"""A guest's ext4 after a power cut: what the kernel writes below a real one, replayed by a guest through a data plane,
and cut at moments of chance, with any part of what was not flushed."""
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.power.filesystem import live, trace, write, wrong
from tests.power.test_power import ALL

FILES, CUTS = (40, 400) if ALL else (6, 8)


def content(name):
    return (f"{name} ".encode() * 2000)[:9000]


def write_files(place):
    """Each file, and when it and its directory had been synced."""
    synced, directory = [], os.open(place, os.O_RDONLY)
    for number in range(FILES):
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


def missing(image, place, names):
    """Files that are not there as they were synced, and what e2fsck finds."""
    return wrong(image, place, lambda place: [
        f"{name} is not as it was synced" for name in names
        if not (place / name).exists() or (place / name).read_bytes() != content(name)])


@pytest.fixture(scope="module")
def ext4():
    """What the kernel wrote to the disk of an ext4."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            return trace(Path(directory), write_files)
        except (OSError, subprocess.CalledProcessError) as exc:
            pytest.skip(f"no ext4 over FUSE and a loop device here: {getattr(exc, 'stderr', exc)!r}")


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_an_ext4_has_what_was_synced_and_is_whole_after_any_power_cut(machine, forker, ext4, tmp_path, engine):
    life, cuts = live(machine, forker, ext4, engine, tmp_path / "record"), 0
    for promised in life.cuts(tmp_path / "image", random.Random(1), CUTS):
        assert missing(tmp_path / "image", tmp_path / "place", promised) == [] and promised
        cuts += 1
    print(f"\n{engine}: ext4 of {len(ext4.operations)} writes and syncs, {cuts} cuts", file=sys.stderr)


def test_a_disk_that_lost_what_was_flushed_would_be_found(ext4, tmp_path):
    """The judge can say no: what the file system wrote, without what it wrote last before the last sync of a file."""
    writes = [(operation.offset, operation.data) for operation in ext4.operations if operation.data is not None]
    write(tmp_path / "image", writes[:len(writes) * 2 // 3])
    assert missing(tmp_path / "image", tmp_path / "place", [name for _, name in ext4.promises])

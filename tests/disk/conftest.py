"""Disks for the tests of this directory: one specification, every engine."""
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from xenvbd import disk
from xenvbd.target import Target, parse

MIB = 1 << 20
FILE_ENGINES = ["threads"]
MEMORY_ENGINES = ["memory", "null"]

Opener = Callable[..., disk.Disk]


@pytest.fixture(params=["disk", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a real file system (O_DIRECT), then one on tmpfs (no NOWAIT, perhaps no O_DIRECT)."""
    if request.param == "disk":
        yield tmp_path
        return
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def make_image(path: Path, size: int = 4 * MIB, fill: bytes | None = None) -> Path:
    """A sparse image, or one full of a repeated block."""
    with open(path, "wb") as file:
        file.truncate(size)
        if fill:
            file.write(fill * (size // len(fill)))
    return path


def target(path: Path | str) -> Target:
    return parse(str(path))


@pytest.fixture
def opened() -> Iterator[Opener]:
    """disk.open() for a path, closed at the end."""
    disks: list[disk.Disk] = []

    def open_one(path: Path | str, **options: object) -> disk.Disk:
        disks.append(disk.open(target(path), **options))
        return disks[-1]

    yield open_one
    for one in disks:
        one.close()


def descriptors() -> set[str]:
    """What this process has open, by name."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")
        except OSError:
            continue
    return found

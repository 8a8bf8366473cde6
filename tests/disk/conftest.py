"""Disks for the tests of this directory: one specification, every engine, several kinds of file."""
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from xenvbd import disk
from xenvbd.disk.opener import FILE_ENGINES
from xenvbd.target import parse

MIB = 1 << 20
Opener = Callable[..., disk.Disk]


@pytest.fixture(params=["disk", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a real file system, where direct I/O works, then one on tmpfs, where it does not."""
    if request.param == "disk":
        yield tmp_path
        return
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture
def make_image() -> Callable[..., Path]:
    """make_image(path, size=4 MiB, fill=None): a sparse image, or one full of a repeated block."""
    def make(path: Path, size: int = 4 * MIB, fill: bytes | None = None) -> Path:
        with open(path, "wb") as file:
            file.write(fill * (size // len(fill))) if fill else file.truncate(size)
        return path
    return make


@pytest.fixture
def opened() -> Iterator[Opener]:
    """opened(target, **options): disk.open(), closed at the end."""
    disks: list[disk.Disk] = []

    def open_one(target: Path | str, **options: object) -> disk.Disk:
        disks.append(disk.open(parse(str(target)), **options))
        return disks[-1]

    yield open_one
    for one in disks:
        one.close()


@pytest.fixture(params=[*FILE_ENGINES, "buffered", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, make_image: Callable[..., Path],
            opened: Opener) -> disk.Disk:
    """A disk of 4 MiB of zeros on every engine that keeps what is written; O_DIRECT, and buffered once."""
    if request.param == "memory":
        return opened("mem:4M")
    if request.param == "buffered":
        return opened(make_image(tmp_path / "image"), direct=False)
    return opened(make_image(tmp_path / "image"), engine=request.param)


def run_or_skip(*command: object) -> str:
    """A command's output; the test is skipped where this host cannot do it."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not possible here: {' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture
def run() -> Callable[..., str]:
    """run(*command): its output; the test is skipped where this host cannot do it."""
    return run_or_skip


@pytest.fixture
def loop_device(tmp_path: Path, make_image: Callable[..., Path]) -> Iterator[Path]:
    """A block device of 16 MiB, on tmp_path/"backing"."""
    device = Path(run_or_skip("losetup", "--find", "--show", make_image(tmp_path / "backing", 16 * MIB)))
    yield device
    subprocess.run(["losetup", "--detach", str(device)], check=True)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A mounted file system with room for hardly anything."""
    mountpoint = tmp_path / "small"
    mountpoint.mkdir()
    if request.param == "tmpfs":
        run_or_skip("mount", "-t", "tmpfs", "-o", "size=2M", "xenvbd-test", mountpoint)
    else:
        device = request.getfixturevalue("loop_device")
        run_or_skip("mkfs.ext4", "-q", device)
        run_or_skip("mount", device, mountpoint)
    yield mountpoint
    subprocess.run(["umount", str(mountpoint)], check=True)


@pytest.fixture
def fuse_file(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """fuse_file("--locks", "--held", PATH): a file of 1 MiB of such a file system (fusefile.py)."""
    mounted = []

    def mount(*options: object) -> Path:
        path = tmp_path / f"fuse{len(mounted)}"
        path.touch()
        command = [sys.executable, Path(__file__).parent / "fusefile.py", path, MIB, *options]
        server = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        mounted.append((path, server))
        if server.stdout.readline() != b"ready\n":
            pytest.skip(f"FUSE is not possible here: {server.stderr.read().decode().splitlines()[-1:]}")
        return path

    yield mount
    for path, server in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=False)
        server.terminate()
        server.wait()

"""The fence file is locked for as long as a write of whoever held it may still land: with both engines, killed, on
file systems that keep their own locks, and on a device, where the process ends before its write."""
import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xenvbd.disk import fencefile
from xenvbd.disk.opener import FILE_ENGINES
from xenvbd.errors import ClaimError

WRITER = """
import sys
from xenvbd import disk
from xenvbd.disk import fencefile
from xenvbd.disk.probe import Session
from xenvbd.target import parse
image, fence, engine = sys.argv[1:]
with Session(disk.open(parse(image), guard=fencefile.take(fence), engine=engine), depth=4) as session:
    session.submit("write", 0, b"late" * 1024)
    while True:
        session.sleep(1)
"""


@pytest.fixture
def held(tmp_path: Path):
    """Writes to what is mounted with it wait as long as it is there."""
    path = tmp_path / "held"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def slow_file(fuse_file, held: Path) -> Path:
    return fuse_file("--held", held)


@pytest.fixture
def slow_device(slow_file: Path, run):
    """A block device on it, so that the kernel itself has a write that a process began."""
    device = run("losetup", "--find", "--show", "--direct-io=on", slow_file)
    yield Path(device)
    subprocess.run(["losetup", "--detach", device], check=True)


@contextlib.contextmanager
def writing(image: Path, fence: Path, held: Path, engine: str):
    """A process that has begun a write which does not come to its end."""
    child = subprocess.Popen([sys.executable, "-c", WRITER, image, fence, engine])
    try:
        waited_for(Path(f"{held}.write").exists)
        yield child
    finally:
        child.kill()
        held.unlink(missing_ok=True)
        child.wait()


def waited_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state(fence: Path) -> int:
    """0 if it can be had, or the errno of the refusal."""
    try:
        os.close(fencefile.take(str(fence)))
    except ClaimError as error:
        return error.errno or 0
    return 0


def test_it_is_made_locked_and_one_at_a_time(tmp_path: Path) -> None:
    fd = fencefile.take(str(tmp_path / "f"))
    with pytest.raises(ClaimError, match=f"locked by process {os.getpid()} "):
        fencefile.take(str(tmp_path / "f"))
    os.close(fd)
    assert state(tmp_path / "f") == 0


def test_one_that_was_removed_meanwhile_is_made_again(tmp_path: Path, monkeypatch) -> None:
    path, real = tmp_path / "f", fencefile.lock

    def removed(fd: int, *arguments: object, **options: object) -> None:
        monkeypatch.setattr(fencefile, "lock", real)
        path.unlink()

    monkeypatch.setattr(fencefile, "lock", removed)
    os.close(fencefile.take(str(path)))
    assert path.exists()


@pytest.mark.parametrize("engine", FILE_ENGINES)
def test_a_killed_writer_holds_it_until_its_write_has_landed(
        slow_file: Path, held: Path, tmp_path: Path, engine: str) -> None:
    with writing(slow_file, tmp_path / "fence", held, engine) as child:
        assert state(tmp_path / "fence") == errno.EBUSY
        child.kill()
        waited_for(lambda: state(tmp_path / "fence") == errno.EINPROGRESS)
        assert slow_file.read_bytes()[:4] == bytes(4)
        held.unlink()
        waited_for(lambda: state(tmp_path / "fence") == 0)
        assert slow_file.read_bytes()[:4] == b"late"


@pytest.mark.parametrize("engine", FILE_ENGINES)
def test_on_a_device_it_is_held_whether_or_not_the_process_has_ended(
        slow_device: Path, slow_file: Path, held: Path, tmp_path: Path, engine: str) -> None:
    with writing(slow_device, tmp_path / "fence", held, engine) as child:
        child.kill()
        if engine == "uring":
            child.wait(10)                  # the write is the kernel's alone
        waited_for(lambda: state(tmp_path / "fence") == errno.EINPROGRESS)
        held.unlink()
        waited_for(lambda: state(tmp_path / "fence") == 0)
        assert slow_file.read_bytes()[:4] == b"late"


def test_a_disk_lets_go_of_it_when_it_is_closed(tmp_path: Path, make_image, opened) -> None:
    guard = fencefile.take(str(tmp_path / "fence"))
    disk = opened(make_image(tmp_path / "image"), guard=guard)
    assert disk.guard == guard and state(tmp_path / "fence") == errno.EBUSY
    disk.close()
    assert state(tmp_path / "fence") == 0


@pytest.mark.parametrize("target", ["null:1M", "mem:1M"])
def test_a_disk_that_needs_none_closes_it(tmp_path: Path, opened, target: str) -> None:
    opened(target, guard=fencefile.take(str(tmp_path / "fence")))
    assert state(tmp_path / "fence") == 0

"""Who has a lock: by device and inode, living or dead, of this host or not."""
import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xenvbd.disk import locks
from xenvbd.disk.holders import Range, holders, identity, is_shown, refusal
from xenvbd.disk.locks import EXCLUSIVE, SHARED

BYTE = locks.CLAIM_BYTE
WANTED = Range(BYTE, BYTE, True)


@contextlib.contextmanager
def process(code: str, *arguments: object):
    """Another process that runs code, and then waits for the end of its standard input."""
    child = subprocess.Popen([sys.executable, "-c", f"import os, sys, fcntl, struct\n{code}\nprint(flush=True)\n"
                              "sys.stdin.read()", *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@contextlib.contextmanager
def ended(held: Path):
    """At the end, however it comes, no write is held any more."""
    try:
        yield
    finally:
        held.unlink(missing_ok=True)


LOCKS = ("from xenvbd.disk import locks\nfd = os.open(sys.argv[1], os.O_RDWR)\n"
         f"assert locks.take(fd, locks.EXCLUSIVE, {BYTE})")
WHOLE_FILE = "fd = os.open(sys.argv[1], os.O_RDWR)\nfcntl.lockf(fd, fcntl.LOCK_EX)"


@pytest.fixture
def image(place: Path, make_image) -> str:
    return str(make_image(place / "image"))


@pytest.fixture
def fd(image: str):
    with open(image, "r+b") as file:
        yield file.fileno()


def test_nobody_has_a_file_that_nobody_locks(fd: int) -> None:
    assert holders(fd) == []


def test_a_process_is_named_with_its_command(fd: int, image: str) -> None:
    with process(LOCKS, image) as child:
        error = refusal(fd, image, WANTED)
        assert error.errno == errno.EBUSY and f"locked by process {child.pid} ({sys.executable}" in str(error)


def test_a_disk_of_ours_is_named_rather_than_its_process(fd: int, image: str) -> None:
    with process(LOCKS, image) as child:
        def disks_of(pid: int, status: os.stat_result) -> list[str]:
            return ["guest1:xvdd"] if (pid, status.st_ino) == (child.pid, os.stat(image).st_ino) else []

        error = refusal(fd, image, WANTED, disks_of=disks_of)
        assert f"locked by guest1:xvdd (process {child.pid}, " in str(error)
        assert str(error).endswith("; detach it there first")


def test_a_posix_lock_of_the_whole_file_is_named(fd: int, image: str) -> None:
    with process(WHOLE_FILE, image) as child:
        assert [name.split(" (")[0] for name in holders(fd, WANTED)] == [f"process {child.pid}"]


def test_a_lock_of_other_bytes_is_not_in_the_way(fd: int, image: str) -> None:
    with process(LOCKS, image):
        assert holders(fd) and not holders(fd, Range(0, BYTE - 1, True)) and holders(fd, Range(0, BYTE, False))


def test_two_that_read_are_not_in_each_others_way(fd: int, image: str) -> None:
    with open(image, "rb") as other:
        assert locks.take(other.fileno(), SHARED, BYTE)
        assert not holders(fd, Range(BYTE, BYTE, False)) and holders(fd, WANTED)


def test_a_process_with_the_same_inode_number_elsewhere_is_not_named(run, tmp_path: Path) -> None:
    twins = [tmp_path / "a", tmp_path / "b"]
    for place in twins:
        place.mkdir()
        run("mount", "-t", "tmpfs", "xenvbd-test", place)
        (place / "image").write_bytes(bytes(4096))
    try:
        assert len({(place / "image").stat().st_ino for place in twins}) == 1
        with process(LOCKS, twins[0] / "image"), open(twins[1] / "image", "r+b") as file:
            assert holders(file.fileno()) == []
    finally:
        for place in twins:
            subprocess.run(["umount", str(place)], check=True)


def test_a_file_of_an_overlay_is_found_by_its_superblock(run, tmp_path: Path) -> None:
    for name in "lower", "upper", "work", "merged":
        (tmp_path / "o" / name).mkdir(parents=True)
    run("mount", "-t", "tmpfs", "xenvbd-test", tmp_path / "o/lower")
    (tmp_path / "o/lower/image").write_bytes(bytes(4096))
    where = {name: tmp_path / "o" / name for name in ("lower", "upper", "work")}
    run("mount", "-t", "overlay", "-o", ",".join(f"{name}{'dir'}={path}" for name, path in where.items()),
        "xenvbd-test", tmp_path / "o/merged")
    image = tmp_path / "o/merged/image"
    try:
        with process(LOCKS, image) as child, open(image, "r+b") as file:
            assert holders(file.fileno())[0].startswith(f"process {child.pid} ")
    finally:
        subprocess.run(["umount", str(tmp_path / "o/merged"), str(tmp_path / "o/lower")], check=True)


def test_the_identity_is_the_one_of_proc_locks(fd: int) -> None:
    assert locks.take(fd, EXCLUSIVE, BYTE)
    assert any(f" {identity(fd)} {BYTE} {BYTE}" in line for line in Path("/proc/locks").read_text().splitlines())
    assert is_shown(fd)


def test_a_dead_process_whose_write_is_under_way_is_waited_for(fuse_file, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.touch()
    image = fuse_file("--held", held)
    writes = "\nimport threading\nthreading.Thread(target=os.pwrite, args=(fd, b'late', 0)).start()"
    with open(image, "r+b") as file, process(LOCKS + writes, image) as child, ended(held):
        waited_for(Path(f"{held}.write").exists)
        child.kill()
        waited_for(lambda: refusal(file.fileno(), "x", WANTED).errno == errno.EINPROGRESS)
        assert not locks.take(file.fileno(), EXCLUSIVE, BYTE)
        held.unlink()
        waited_for(lambda: locks.take(file.fileno(), EXCLUSIVE, BYTE))
        assert os.pread(file.fileno(), 4, 0) == b"late"


def test_a_lock_that_the_file_system_keeps_is_no_process_s(fuse_file) -> None:
    image = fuse_file("--locks")
    with process(LOCKS, image), open(image, "r+b") as file:
        assert not locks.take(file.fileno(), EXCLUSIVE, BYTE)
        assert refusal(file.fileno(), str(image), WANTED).errno == errno.EREMOTE
        assert "another host" in str(refusal(file.fileno(), str(image), WANTED))
        assert refusal(file.fileno(), str(image), WANTED, ours=True).errno == errno.EINPROGRESS


def waited_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""QEMU's image locks, with QEMU's own tools: whoever comes second is refused."""
import contextlib
import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from xenvbd.disk import locks, qemu_locks
from xenvbd.errors import ClaimError, TargetError

pytestmark = pytest.mark.skipif(not shutil.which("qemu-io"), reason="without QEMU's tools (qemu-utils)")
READ, WRITE = ("read", "0", "512"), ("write", "0", "512")


@pytest.fixture
def image(place: Path, make_image) -> Path:
    return make_image(place / "raw.img")


@pytest.fixture
def description():
    """description(path, flags): an open file description."""
    fds = []

    def opened(path: Path, flags: int = os.O_RDWR) -> int:
        fds.append(os.open(path, flags))
        return fds[-1]

    yield opened
    for fd in fds:
        os.close(fd)


def qemu_io(image: Path, *words: str, options: tuple[str, ...] = ()) -> str:
    """What qemu-io says on standard error; empty if it did it."""
    read = () if "write" in words else ("-r",)
    done = subprocess.run(["qemu-io", "-f", "raw", *read, *options, "-c", " ".join(words), str(image)],
                          capture_output=True, text=True)
    return done.stderr if done.returncode else ""


@pytest.fixture
def qemu_nbd(tmp_path: Path):
    """qemu_nbd(image, *options): its pid, once it serves the image."""
    servers = []

    def serve(image: Path, *options: str) -> int:
        socket = tmp_path / f"nbd{len(servers)}"
        servers.append(subprocess.Popen(["qemu-nbd", "-f", "raw", "-t", "-k", socket, *options, image]))
        waited_for(lambda: has_locked(servers[-1].pid, 100 if "-r" in options else 101))
        return servers[-1].pid

    yield serve
    for server in servers:
        server.terminate()
        server.wait()


def acquired(fd: int, read_only: bool = False, share: bool = False) -> None:
    qemu_locks.acquire(fd, "raw.img", read_only=read_only, share=share)


def refused(fd: int, **options: bool) -> ClaimError:
    with pytest.raises(ClaimError) as caught:
        acquired(fd, **options)
    return caught.value


# They run.

def test_a_qemu_that_writes_is_refused_by_name(image: Path, description, qemu_nbd) -> None:
    pid = qemu_nbd(image)
    for options in {}, {"read_only": True}:
        error = refused(description(image), **options)
        assert error.errno == errno.EBUSY and f"process {pid} (qemu-nbd" in str(error)


def test_a_refusal_leaves_no_lock(image: Path, description, qemu_nbd) -> None:
    qemu_nbd(image)
    fd = description(image)
    refused(fd)
    assert Path(f"/proc/self/fdinfo/{fd}").read_text().count("lock:") == 0


def test_a_qemu_that_lets_others_write_is_joined_by_who_lets_it_write(image: Path, description, qemu_nbd) -> None:
    qemu_nbd(image)                                             # as qemu-nbd does
    acquired(description(image), share=True)


def test_a_qemu_that_reads_and_lets_others_write_keeps_nobody_out(image: Path, description, qemu_nbd) -> None:
    qemu_nbd(image, "-r")
    acquired(description(image))


def test_a_qemu_that_may_not_see_writes_keeps_a_writer_out_and_no_reader(image: Path, description) -> None:
    with converting(image) as pid:
        assert f"process {pid} (qemu-img convert" in str(refused(description(image)))
        acquired(description(image, os.O_RDONLY), read_only=True)


@contextlib.contextmanager
def converting(image: Path):
    """The pid of a qemu-img that copies the image, as slowly as can be."""
    image.write_bytes(os.urandom(image.stat().st_size))
    copy = subprocess.Popen(["qemu-img", "convert", "-O", "raw", "-r", "1", image, f"{image}.copy"])
    try:
        waited_for(lambda: has_locked(copy.pid, 201))
        yield copy.pid
    finally:
        copy.kill()
        copy.wait()


def has_locked(pid: int, byte: int) -> bool:
    """Whether a QEMU has opened its image as far as that it has locked this byte."""
    lines = [line.split() for descriptor in os.listdir(f"/proc/{pid}/fdinfo")
             for line in information(pid, descriptor).splitlines() if line.startswith("lock:")]
    return any(int(words[-2]) <= byte <= int(words[-1]) for words in lines if words[-1].isdecimal())


def information(pid: int, descriptor: str) -> str:
    try:
        return Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
    except FileNotFoundError:           # it was closed meanwhile
        return ""


def waited_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# We hold.

def test_a_writer_of_ours_keeps_qemu_s_tools_out(image: Path, description) -> None:
    acquired(description(image))
    assert 'Failed to get "write" lock' in qemu_io(image, *WRITE)
    done = subprocess.run(["qemu-img", "convert", "-O", "raw", image, f"{image}.copy"], capture_output=True, text=True)
    assert done.returncode and "lock" in done.stderr


def test_qemu_can_still_look_by_force(image: Path, description) -> None:
    acquired(description(image))
    subprocess.run(["qemu-img", "info", "-U", image], check=True, stdout=subprocess.DEVNULL)


def test_a_reader_of_ours_keeps_writers_of_qemu_out_and_no_readers(image: Path, description) -> None:
    acquired(description(image, os.O_RDONLY), read_only=True)
    assert qemu_io(image, *READ) == ""
    assert 'Failed to get "write" lock' in qemu_io(image, *WRITE)


def test_writers_of_ours_that_share_let_each_other_write_and_a_qemu_that_shares(image: Path, description) -> None:
    acquired(description(image), share=True)
    acquired(description(image), share=True)
    assert qemu_io(image, *WRITE) == ""


def test_after_a_release_qemu_may_write(image: Path, description) -> None:
    fd = description(image)
    locks.claim(fd, "raw.img", exclusive=True)
    acquired(fd)
    qemu_locks.release(fd)
    assert qemu_io(image, *WRITE) == ""
    assert not locks.is_free(description(image), locks.CLAIM_BYTE)      # and nothing else was let go


def test_qemu_locks_a_block_device_by_the_same_bytes(loop_device: Path, description, qemu_nbd) -> None:
    fd = description(loop_device)
    acquired(fd)
    assert 'Failed to get "write" lock' in qemu_io(loop_device, *WRITE)
    qemu_locks.release(fd)
    pid = qemu_nbd(loop_device)
    assert f"process {pid} (qemu-nbd" in str(refused(fd))


def test_two_writers_of_ours_keep_each_other_out(image: Path, description) -> None:
    acquired(description(image))
    assert f"process {os.getpid()} " in str(refused(description(image)))


def test_a_file_system_without_locks_is_named_as_such(image: Path, description, monkeypatch) -> None:
    def none(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("xenvbd.disk.locks.fcntl.fcntl", none)
    with pytest.raises(TargetError, match="--lock=off"):
        acquired(description(image))

"""An image is opened only where it may be, only if it is a file or a block device, and is locked by name."""
import errno
import fcntl
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenvbd.disk import Image, open_image
from xenvbd.disk.holders import holders
from xenvbd.errors import ClaimError, Error, PolicyError, TargetError


@pytest.fixture
def image(tmp_path: Path, make_image) -> str:
    return str(make_image(tmp_path / "image"))


@pytest.fixture
def opening() -> Iterator:
    """open_image(), closed at the end."""
    images: list[Image] = []

    def opener(path: object, *, read_only: bool = False, **options: object) -> Image:
        images.append(open_image(str(path), read_only=read_only, **options))
        return images[-1]

    yield opener
    for one in images:
        try:
            one.close()
        except OSError as error:
            assert error.errno == errno.EBADF       # the test closed it


def refusal(path: object, **options: object) -> Error:
    """The error of an image that must be refused; nothing stays open."""
    gc.collect()        # what earlier tests have left is not counted
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Error) as caught:
        open_image(str(path), read_only=bool(options.pop("read_only", False)), **options)
    assert len(os.listdir("/proc/self/fd")) == before
    return caught.value


# What it is.

def test_the_facts_of_a_file_are_found(image: str, opening) -> None:
    found = opening(image)
    assert (found.size, found.is_block, found.read_only) == (4 << 20, False, False)
    assert (found.logical_block_size, found.physical_block_size) == (512, 4096)
    assert found.ino == os.stat(image).st_ino
    assert found.can_discard and found.discard_granularity == 4096


def test_direct_io_is_used_where_it_works_in_the_disks_block_size(image: str, opening) -> None:
    found = opening(image)
    assert found.direct and found.alignment == 512
    assert fcntl.fcntl(found.fd, fcntl.F_GETFL) & os.O_DIRECT


def test_direct_io_can_be_declined(image: str, opening) -> None:
    found = opening(image, direct=False)
    assert not found.direct and found.alignment == 1
    assert not fcntl.fcntl(found.fd, fcntl.F_GETFL) & os.O_DIRECT


def test_direct_io_that_cannot_be_had_is_buffered_unless_it_is_insisted_on(image: str, opening) -> None:
    assert not opening(image, read_only=True, logical_block_size=256).direct
    error = refusal(image, read_only=True, logical_block_size=256, direct=True)
    assert isinstance(error, TargetError) and "direct I/O in blocks of 256 bytes" in str(error)


def test_an_image_in_memory_is_not_called_direct(place: Path, make_image, opening) -> None:
    found = opening(make_image(place / "image"))
    assert found.direct == (not str(place).startswith("/dev/shm")) and found.size == 4 << 20


def test_the_descriptor_is_closed_on_exec_and_blocks(image: str, opening) -> None:
    found = opening(image)
    assert fcntl.fcntl(found.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert not fcntl.fcntl(found.fd, fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_read_only_image_is_opened_read_only_and_cannot_discard(image: str, opening) -> None:
    found = opening(image, read_only=True)
    assert fcntl.fcntl(found.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    assert not found.can_discard


def test_finding_out_changes_neither_contents_nor_size(tmp_path: Path, make_image, opening) -> None:
    path = make_image(tmp_path / "odd", size=4096 * 3, fill=b"x" * 512)
    blocks = path.stat().st_blocks
    opening(path)
    assert path.read_bytes() == b"x" * 4096 * 3 and path.stat().st_blocks == blocks


def test_no_format_is_ever_probed(tmp_path: Path, opening) -> None:
    path = tmp_path / "raw"
    header = b"QFI\xfb\0\0\0\3" + bytes(8) + b"/etc/shadow".ljust(4080, b"\0")       # a qcow2 with a backing file
    path.write_bytes(header)
    found = opening(path, direct=False)
    assert found.size == 4096 and os.pread(found.fd, 4096, 0) == header


def test_a_device_of_larger_sectors_is_direct_only_for_a_disk_of_such_sectors(
        tmp_path: Path, make_image, opening, run) -> None:
    image = make_image(tmp_path / "image")
    device = run("losetup", "--find", "--show", "--sector-size", 4096, image)
    try:
        assert not opening(device, read_only=True).direct
        found = opening(device, read_only=True, logical_block_size=4096)
        assert found.direct and found.alignment == found.logical_block_size == 4096
    finally:
        run("losetup", "--detach", device)


# What is refused.

@pytest.mark.parametrize(("make", "found"), [
    (os.mkfifo, "found a FIFO"),
    (os.mkdir, "found a directory"),
    (lambda path: os.symlink("image", path), "found a symbolic link"),
    (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "found a socket"),
])
def test_anything_but_a_file_or_a_device_is_refused_saying_what_it_is(
        image: str, tmp_path: Path, make, found: str) -> None:
    path = tmp_path / "other"
    make(path)
    error = refusal(path)
    assert isinstance(error, TargetError)
    assert str(path) in str(error) and found in str(error)
    assert "expected a regular file or a block device" in str(error)


def test_a_character_device_is_refused_without_being_opened() -> None:
    assert "found a character device" in str(refusal("/dev/null"))


def test_a_link_in_the_middle_of_the_path_is_refused_and_named(image: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.rename(image, tmp_path / "real/image")
    (tmp_path / "link").symlink_to("real")
    error = refusal(tmp_path / "link/image")
    assert error.errno == errno.ELOOP and f"{tmp_path / 'link'} -> real" in str(error)


@pytest.mark.parametrize("path", ["image", "", "/a/../b", "/..", "/a\0b"])
def test_a_path_must_be_absolute_without_dots(path: str) -> None:
    assert "expected an absolute path" in str(refusal(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none")
    assert error.errno == errno.ENOENT and str(tmp_path / "none") in str(error)


def test_only_what_lies_beneath_an_allowed_directory_is_opened(image: str, tmp_path: Path, opening) -> None:
    opening(image, allow=["/srv", str(tmp_path)])
    for allow in ([], ["/srv"], [f"{tmp_path}/im"], [f"{tmp_path}x"]):
        error = refusal(image, allow=allow)
        assert isinstance(error, PolicyError) and "outside the allowed places" in str(error)


def test_more_slashes_at_the_beginning_are_one_in_what_is_allowed_too(image: str, tmp_path: Path, opening) -> None:
    opening(f"/{image}", allow=[str(tmp_path)])
    opening(image, allow=[f"/{tmp_path}"], read_only=True, lock=False)


def test_an_allowed_directory_may_itself_be_a_link(image: str, tmp_path: Path, opening) -> None:
    (tmp_path / "pool").symlink_to(tmp_path)
    assert opening(tmp_path / "pool/image", allow=[str(tmp_path / "pool")]).ino == os.stat(image).st_ino


def test_a_link_below_dev_that_leads_to_a_file_is_refused(image: str) -> None:
    link = Path(f"/dev/xenvbd-test-{os.getpid()}")
    goals = {image: PolicyError, os.path.relpath(image, "/dev"): PolicyError, "null": TargetError}
    for goal, error in goals.items():
        link.symlink_to(goal)
        try:
            assert isinstance(refusal(link), error)
        finally:
            link.unlink()


def test_a_file_that_cannot_be_written_is_refused_for_writing(image: str) -> None:
    subprocess.run(["chattr", "+i", image], check=True)
    try:
        assert refusal(image).errno == errno.EPERM
        open_image(image, read_only=True).close()
    finally:
        subprocess.run(["chattr", "-i", image], check=True)


# Locks.

def other_process(image: str, options: str = "read_only=False") -> subprocess.Popen:
    """Another process that holds the image until its standard input is closed."""
    code = (f"import sys; from xenvbd.disk import open_image; open_image({image!r}, {options}); "
            "print('held', flush=True); sys.stdin.read()")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_writer_is_refused_by_the_name_of_the_first(image: str) -> None:
    with other_process(image) as first:
        for options in ({}, {"read_only": True}, {"share": True}):
            error = refusal(image, **options)
            assert isinstance(error, ClaimError) and error.errno == errno.EBUSY
            assert f"process {first.pid} (" in str(error) and image in str(error)
        first.stdin.close()
    open_image(image, read_only=False).close()


def test_a_second_writer_in_the_same_process_is_refused_too(image: str, opening) -> None:
    opening(image)
    assert f"process {os.getpid()} " in str(refusal(image))


def test_readers_share_an_image_and_keep_writers_out(image: str, opening) -> None:
    opening(image, read_only=True)
    opening(image, read_only=True)
    assert isinstance(refusal(image), ClaimError)


def test_writers_that_share_keep_a_plain_writer_out(image: str, opening) -> None:
    opening(image, share=True)
    opening(image, share=True)
    assert isinstance(refusal(image), ClaimError)


def test_a_vbds_fence_is_exclusive_even_where_the_image_is_shared(image: str, opening) -> None:
    opening(image, share=True, fence="5/51712")
    opening(image, share=True, fence="6/51712")
    assert isinstance(refusal(image, share=True, fence="5/51712"), ClaimError)


def test_the_lock_stays_with_a_descriptor_that_was_handed_over(image: str, opening) -> None:
    first = opening(image)
    worker = os.dup(first.fd)                       # what SCM_RIGHTS makes: the same open file description
    first.close()
    assert isinstance(refusal(image), ClaimError)
    assert holders(worker) and f"process {os.getpid()}" in holders(worker)[0]
    os.close(worker)
    opening(image)


def test_the_lock_of_a_killed_process_goes(image: str, opening) -> None:
    with other_process(image) as first:
        first.kill()
        first.wait()
    opening(image, wait=True)


def test_a_successor_can_wait_for_the_lock(image: str, opening) -> None:
    with other_process(image) as first:
        closer = subprocess.Popen(["sleep", "0.3"], stdout=first.stdin)
        first.stdin.close()                         # the sleeper holds the last copy of it for a while
        opening(image, wait=True)
        assert closer.wait() == 0


def test_without_a_lock_two_may_write(image: str, opening) -> None:
    opening(image, lock=False)
    opening(image, lock=False)


def test_a_thousand_openings_leave_no_descriptor(image: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        open_image(image, read_only=False).close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_an_image_whose_flags_cannot_be_changed_is_closed_and_named(tmp_path, monkeypatch):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(4096))
    before = len(os.listdir("/proc/self/fd"))

    def refuse(*arguments):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("xenvbd.disk.places.fcntl.fcntl", refuse)
    with pytest.raises(TargetError, match=r"a\.img: Cannot allocate"):
        open_image(str(path), read_only=False)
    assert len(os.listdir("/proc/self/fd")) == before

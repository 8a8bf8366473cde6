"""disk.open() takes the engine that fits the target and the host, or says why it cannot."""
import errno
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from xenvbd import disk
from xenvbd.disk import opener
from xenvbd.errors import PropertyError, TargetError
from xenvbd.target import Target, parse

# A seccomp filter that makes io_uring_setup(2) fail with EPERM, as kernel.io_uring_disabled=2 does.
FORBID = """
import ctypes, struct
code = b"".join(struct.pack("HBBI", *op) for op in (
    (0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)))
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
from xenvbd import disk
from xenvbd.target import parse
"""


@pytest.fixture
def image(tmp_path, make_image) -> Target:
    return parse(str(make_image(tmp_path / "image")))


def test_a_file_is_served_by_io_uring_where_it_can_be(image: Target, opened) -> None:
    assert opened(image).engine == ("threads" if opener.unavailable() else "uring")


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_a_named_engine_is_taken(image: Target, opened, engine: str) -> None:
    assert opened(image, engine=engine).engine == engine


def test_where_io_uring_is_forbidden_threads_serve(image: Target) -> None:
    code = FORBID + f"print(disk.open(parse({str(image)!r})).engine)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "threads\n"


def test_where_io_uring_is_forbidden_naming_it_says_why(image: Target) -> None:
    code = FORBID + f"""
try:
    disk.open(parse({str(image)!r}), engine="uring")
except OSError as error:
    print(error)"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "Operation not permitted" in said and "kernel.io_uring_disabled" in said and "threads" in said


@pytest.mark.parametrize(("text", "engine"), [("mem:1M", "memory"), ("null:1G", "null")])
def test_a_sized_target_is_its_own_engine(text: str, engine: str, opened) -> None:
    found = opened(text)
    assert (found.engine, found.size, found.target) == (engine, parse(text).size, text)
    with pytest.raises(PropertyError, match="its own engine"):
        opened(text, engine="uring")


def test_an_unknown_engine_is_refused_naming_the_known_ones(image: Target, opened) -> None:
    with pytest.raises(PropertyError, match="expected auto, uring or threads"):
        opened(image, engine="aio")


def test_a_sized_target_needs_a_size_that_there_is_room_for() -> None:
    with pytest.raises(PropertyError, match="such as mem:1G"):
        disk.open(Target("mem"))
    with pytest.raises(TargetError, match="no room for"):
        disk.open(Target("mem", size=1 << 60))


def test_the_properties_of_a_disk_are_what_was_asked_for_and_found(image: Target, opened) -> None:
    found = opened(image, logical_block_size=4096, read_only=True)
    assert (found.logical_block_size, found.physical_block_size, found.alignment) == (4096, 4096, 512)
    assert found.read_only and not found.can_discard
    for text in ("mem:1M", "null:1M"):
        sized = opened(text, logical_block_size=4096, discard=False, read_only=True)
        assert (sized.logical_block_size, sized.can_discard, sized.read_only) == (4096, False, True)


def test_the_memory_of_a_disk_is_in_no_core_dump(opened) -> None:
    kept = opened("mem:123456K")
    mappings = Path("/proc/self/smaps").read_text().split("VmFlags:")
    flags = [after.splitlines()[0].split() for before, after in pairwise(mappings) if "     123456 kB" in before]
    assert kept.size == 123456 << 10 and len(flags) == 1 and "dd" in flags[0]


# A descriptor that was handed over.

def test_a_descriptor_is_enough(image: Target, opened) -> None:
    handed = disk.open_image(image.path, read_only=False)
    found = opened(image, fd=handed.fd)
    assert found.fd == handed.fd and found.size == 4 << 20 and found.direct


@pytest.mark.parametrize("options", [{"engine": "aio"}, {"direct": True, "logical_block_size": 256}])
def test_a_descriptor_is_closed_when_opening_fails(image: Target, options: dict) -> None:
    fd = os.open(image.path, os.O_RDWR)
    with pytest.raises(OSError, match=r"engine aio|direct I/O"):
        disk.open(image, fd=fd, **options)
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF


def test_a_descriptor_that_a_sized_target_has_no_use_for_is_closed() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    disk.open(parse("null:1M"), fd=fd)
    with pytest.raises(OSError):
        os.fstat(fd)

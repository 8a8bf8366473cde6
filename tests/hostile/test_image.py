"""Hostile cases F: an image that is taken away from under its disk."""
import os

import pytest

from tests.support.guest import ERROR, OKAY, PAGE, READ, WRITE
from xenvbd import disk
from xenvbd.disk.opener import FILE_ENGINES
from xenvbd.target import parse

MIB = 1 << 20


@pytest.fixture(params=FILE_ENGINES)
def image(request, tmp_path):
    """A disk of 4 MiB without a zero in it: (its path, the disk)."""
    path = tmp_path / "image"
    path.write_bytes(b"\x5a" * (4 * MIB))
    return path, disk.open(parse(str(path)), engine=request.param)


@pytest.fixture
def guest(serve, image):
    served = serve(disk=image[1])
    served.cleanup.append(image[1].close)
    return served.guest


def test_F3_a_truncated_image_gives_errors_and_never_zeros(guest, image) -> None:
    """Also for a transfer that begins before the new end.  Nothing of it reaches the guest's page."""
    os.truncate(image[0], MIB)
    for sector in MIB // 512 - 4, MIB // 512, 4 * MIB // 512 - 8:
        pages = guest.pages(1)
        pages.bytes[:] = b"\x11" * PAGE
        assert guest.do(guest.request(READ, sector, pages.segments())) == [ERROR]
        assert bytes(pages.bytes) == b"\x11" * PAGE
    assert guest.read(0, 8) == b"\x5a" * PAGE


def test_F3_what_is_written_behind_the_new_end_can_be_read_again(guest, image) -> None:
    os.truncate(image[0], MIB)
    pages = guest.pages(1)
    pages.bytes[:] = b"\x22" * PAGE
    assert guest.do(guest.request(WRITE, 4096, pages.segments())) == [OKAY]
    assert guest.flush() == OKAY
    assert guest.read(4096, 8) == b"\x22" * PAGE


def test_F5_an_image_that_is_removed_is_served_to_the_end(guest, image) -> None:
    os.unlink(image[0])
    assert guest.write(8, b"\x33" * PAGE) == OKAY and guest.flush() == OKAY
    assert guest.read(8, 8) == b"\x33" * PAGE


def test_F6_another_file_in_the_image_s_place_is_not_touched(guest, image) -> None:
    os.rename(image[0], image[0].with_suffix(".old"))
    image[0].write_bytes(b"another")
    assert guest.write(0, b"\x44" * PAGE) == OKAY and guest.flush() == OKAY
    assert image[0].read_bytes() == b"another"
    assert image[0].with_suffix(".old").read_bytes()[:PAGE] == b"\x44" * PAGE

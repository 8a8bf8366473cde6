"""Hostile cases D: discards."""
import subprocess
import tempfile

import pytest

from tests.disk.conftest import run_or_skip
from tests.support.guest import DISCARD, EOPNOTSUPP, ERROR, OKAY, READ, WRITE
from xenvbd import disk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.disk.opener import FILE_ENGINES
from xenvbd.target import parse

CAPACITY = (4 << 20) // 512


@pytest.mark.parametrize(("sector", "count"), [
    pytest.param(0, CAPACITY + 1, id="D1"), pytest.param(CAPACITY, 1, id="D1b"),
    pytest.param(CAPACITY + 1, 0, id="D1c"), pytest.param(8, (1 << 64) - 8, id="D2"),
    pytest.param((1 << 64) - 1, 2, id="D2b"), pytest.param(1 << 55, 8, id="D2c")])
def test_D1_D2_a_discard_beyond_the_disk_or_that_wraps(case, sector: int, count: int) -> None:
    hostile = case()
    assert hostile.guest.do(hostile.guest.request(DISCARD, sector, nr_sectors=count)) == [ERROR]
    assert hostile.on_disk() == hostile.image


def test_D3_a_discard_of_nothing(case) -> None:
    hostile = case()
    for sector in 0, CAPACITY:
        assert hostile.guest.do(hostile.guest.request(DISCARD, sector, nr_sectors=0)) == [OKAY]
    assert hostile.on_disk() == hostile.image


def test_D4_a_discard_of_sixteen_tebibytes_does_not_hold_up_reads(serve, guests) -> None:
    size = 16 << 40
    guest = serve(guests(), MemoryDisk("mem:16T", size)).guest
    discard = guest.request(DISCARD, 0, nr_sectors=size // 512)
    guest.submit(discard)
    for _ in range(20):
        assert guest.do(guest.request(READ, 0, guest.pages(1).segments())) == [OKAY]
    assert guest.finish(discard, timeout=20) == [OKAY]


@pytest.mark.parametrize("flags", [1, 2, 3, 0x80, 0xFE, 0xFF])
def test_D5_a_discard_that_is_secure_or_has_an_unknown_flag_is_not_supported(case, flags: int) -> None:
    hostile = case()
    assert hostile.guest.do(hostile.guest.request(DISCARD, 0, nr_sectors=8, sub=flags)) == [EOPNOTSUPP]
    assert hostile.on_disk() == hostile.image


def test_D8_discards_racing_writes_leave_each_sector_old_new_or_zero(case) -> None:
    hostile = case()
    guest = hostile.guest
    pages = guest.pages(1)
    pages.bytes[:] = b"\x77" * 4096
    writes = [guest.request(WRITE, 8 * (i % 8), pages.segments()) for i in range(16)]
    discards = [guest.request(DISCARD, 0, nr_sectors=64) for _ in range(16)]
    requests = [request for both in zip(writes, discards, strict=True) for request in both]
    assert set(guest.do(*requests)) == {OKAY}
    data = guest.read(0, 64)
    assert {data[at:at + 512] for at in range(0, len(data), 512)} <= {b"\x77" * 512, bytes(512)}
    assert hostile.on_disk()[64 * 512:] == hostile.image[64 * 512:]


@pytest.fixture(params=FILE_ENGINES)
def sparse(request):
    """A sparse image of 16 TiB, on each engine."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(16 << 40)
        opened = disk.open(parse(file.name), engine=request.param)
        yield opened
        opened.close()


def whole(guest, size: int, count: int) -> list:
    return [guest.request(DISCARD, 0, nr_sectors=size // 512) for _ in range(count)]


def test_D10_512_discards_of_sixteen_tebibytes_do_not_hold_up_the_end(serve, guests, sparse) -> None:
    served = serve(guests(order=4), sparse)
    guest = served.guest
    guest.submit(*whole(guest, sparse.size, 512))
    assert served.plane.stop(timeout=20)
    guest.take()
    assert list(guest.answered.values()) == [OKAY] * 512


def test_D11_eight_queues_full_of_discards_of_sixteen_tebibytes_do_not_hold_up_reads(serve_queues, sparse) -> None:
    served = serve_queues(8, sparse)
    for guest in served.rings:
        guest.submit(*whole(guest, sparse.size, 31))
    for guest in served.rings * 10:
        assert guest.do(guest.request(READ, 0, guest.pages(1).segments())) == [OKAY]
    assert served.plane.stop(timeout=20)


@pytest.fixture
def large_blocks():
    """A device of 1 MiB with blocks of 4096 bytes, all "x", that is offered with sectors of 512."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x" * (1 << 20))
        file.flush()
        device = run_or_skip("losetup", "--find", "--show", "--sector-size", "4096", file.name)
        opened = disk.open(parse(device))
        yield opened
        opened.close()
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize(("sector", "count", "zeros"), [
    (1, 31, (8, 32)), (8, 31, (8, 32)), (7, 33, (8, 40)), (0, 16, (0, 16)), (2045, 3, (2040, 2040)), (1, 14, (8, 8)),
    (1, 2, (8, 8)), (8, 0, (8, 8)), (2041, 7, (2048, 2048)), (2040, 8, (2040, 2048))])
def test_D12_of_a_discard_of_parts_of_blocks_the_whole_ones_go_and_the_edges_stay(
        serve, large_blocks, sector: int, count: int, zeros: tuple[int, int]) -> None:
    served = serve(disk=large_blocks)
    guest = served.guest
    assert guest.do(guest.request(DISCARD, sector, nr_sectors=count)) == [OKAY]
    expected = bytearray(b"x" * (1 << 20))
    expected[zeros[0] * 512:zeros[1] * 512] = bytes((zeros[1] - zeros[0]) * 512)
    assert guest.read(0, 2048) == expected
    served.plane.destroy()

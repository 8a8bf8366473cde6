"""Hostile cases D: discards."""
import pytest

from tests.support.guest import DISCARD, EOPNOTSUPP, ERROR, OKAY, READ, WRITE
from xenvbd.disk.memory import MemoryDisk

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

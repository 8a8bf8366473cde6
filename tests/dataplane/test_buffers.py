"""A ring's memory is bounded whatever the guest sends; requests that find none wait, in their order, and get it."""
import os

import pytest

from tests.support.guest import DISCARD, FLUSH, OKAY, PAGE, READ, WRITE
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.stats import Snapshot

SIZE = 64 << 20


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(MemoryDisk("mem:64M", SIZE))


def starved(served) -> int:
    return Snapshot.from_bytes(served.plane.statistics()[0]).counters["starved"]


def test_requests_beyond_the_buffers_wait_for_those_before_them(serve, disk) -> None:
    served = serve(disk=disk, max_buffer_bytes=2 << 20)
    guest = served.guest
    rule = disk.hold("read")
    table = guest.pages(256).segments()
    requests = [guest.indirect(READ, 0, table) for _ in range(10)]
    guest.submit(*requests)
    disk.wait_held(2)
    assert guest.quiet(0.1)
    assert (disk.held, starved(served)) == (2, 1)
    disk.clear(rule)
    assert guest.finish(*requests) == [OKAY] * 10


def test_a_large_request_is_not_overtaken_for_ever_by_small_ones(serve, disk) -> None:
    served = serve(disk=disk, max_buffer_bytes=2 << 20)
    guest = served.guest
    disk.delay("any", 0.001)
    small, table = guest.pages(1).segments(), guest.pages(256).segments()
    requests = [guest.indirect(WRITE, 0, table) if i % 8 == 7 else guest.request(WRITE, 0, small) for i in range(32)]
    for _ in range(5):
        again = [request._replace(id=next(guest._ids)) for request in requests]
        assert set(guest.do(*again)) == {OKAY}
    assert starved(served) > 0


def test_what_needs_no_buffer_waits_its_turn_too(serve, disk) -> None:
    served = serve(disk=disk, max_buffer_bytes=2 << 20)
    guest = served.guest
    rule = disk.hold("read")
    table = guest.pages(256).segments()
    requests = [guest.indirect(READ, 0, table) for _ in range(3)]
    requests += [guest.request(FLUSH), guest.request(DISCARD, 0, nr_sectors=8)]
    guest.submit(*requests)
    disk.wait_held(2)
    disk.clear(rule)
    assert guest.finish(*requests) == [OKAY] * 5


@pytest.mark.parametrize("segments", [1, 11, 12, 256])
def test_a_full_ring_of_any_size_of_request_fits_the_smallest_buffers(serve, guests, segments: int) -> None:
    served = serve(guests(order=2), max_buffer_bytes=2 << 20)
    guest = served.guest
    pages = guest.pages(segments)
    pages.bytes[:] = os.urandom(segments * PAGE)
    make = guest.request if segments <= 11 else guest.indirect
    requests = [make(WRITE, 8 * i, pages.segments()) for i in range(128)]
    assert set(guest.do(*requests)) == {OKAY}
    assert guest.read(127 * 8, segments * 8) == bytes(pages.bytes)


def test_many_tiny_segments_take_more_than_one_grant_copy_call(serve, guests) -> None:
    """A batch of copies is bounded; requests are not split over two."""
    served = serve(guests(order=2))
    guest = served.guest
    pages = guest.pages(1)
    pages.bytes[:] = os.urandom(PAGE)
    table = ((pages.refs[0], 3, 3),) * 256
    requests = [guest.indirect(WRITE, 256 * i, table) for i in range(30)]
    assert set(guest.do(*requests)) == {OKAY}
    assert guest.read(29 * 256, 256) == bytes(pages.bytes[3 * 512:4 * 512]) * 256

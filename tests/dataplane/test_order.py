"""What waits for what: flushes, flushes with data, barriers, discards.  The disk holds operations back on demand."""
import os

import pytest

from tests.support.guest import BARRIER, DISCARD, FLUSH, OKAY, PAGE, READ, SECTOR, WRITE, until
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk

SIZE = 4 << 20


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(MemoryDisk("mem:4M", SIZE))


@pytest.fixture
def guest(serve, disk):
    return serve(disk=disk, barrier=True).guest


def a_write(guest, sector: int = 0):
    pages = guest.pages(1)
    pages.bytes[:] = os.urandom(PAGE)
    return guest.request(WRITE, sector, pages.segments())


def test_a_flush_does_not_wait_for_a_write_that_was_not_answered(guest, disk) -> None:
    rule = disk.hold("write")
    write = a_write(guest)
    guest.submit(write)
    disk.wait_held(1)
    assert guest.flush() == OKAY
    disk.clear(rule)
    assert guest.finish(write) == [OKAY]


def test_flushes_that_wait_share_one_fdatasync(guest, disk) -> None:
    rule = disk.hold("flush", count=1)
    first, later = guest.request(FLUSH), [guest.request(FLUSH) for _ in range(20)]
    guest.submit(first)
    disk.wait_held(1)
    guest.submit(*later)
    assert guest.quiet(0.1)
    disk.clear(rule)
    assert set(guest.finish(first, *later)) == {OKAY}
    assert disk.seen("flush") == 2


def test_a_flush_that_came_later_is_not_covered_by_one_that_runs(guest, disk) -> None:
    """It must cover what was answered before it was consumed, and that may be after the first fdatasync began."""
    disk.hold("flush", count=2)
    first, second = guest.request(FLUSH), guest.request(FLUSH)
    guest.submit(first)
    disk.wait_held(1)
    assert guest.do(a_write(guest)) == [OKAY]
    guest.submit(second)
    disk.clear()
    assert guest.finish(first, second) == [OKAY, OKAY]
    assert disk.seen("flush") == 2


def test_a_flush_with_data_flushes_first_and_writes_then(guest, disk) -> None:
    rule = disk.hold("flush")
    pages = guest.pages(1)
    pages.bytes[:] = b"\x11" * PAGE
    request = guest.request(FLUSH, 8, pages.segments())
    guest.submit(request)
    disk.wait_held(1)
    assert disk.seen("write") == 0
    pages.bytes[:] = b"\x22" * PAGE         # it was copied once, when it was consumed
    disk.clear(rule)
    assert guest.finish(request) == [OKAY]
    assert guest.read(8, 8) == b"\x11" * PAGE


def test_a_barrier_drains_flushes_writes_and_flushes(guest, disk) -> None:
    writes = disk.hold("write", count=1)
    before, barrier, after = a_write(guest), guest.request(BARRIER, 8, guest.pages(1).segments()), a_write(guest, 16)
    guest.submit(before, barrier, after)
    disk.wait_held(1)
    assert guest.quiet(0.1)
    assert (disk.seen("write"), disk.seen("flush")) == (1, 0)
    flushes = disk.hold("flush", count=1)
    disk.clear(writes)
    assert guest.finish(before) == [OKAY]
    until(lambda: (disk.seen("write"), disk.seen("flush")) == (1, 1))
    last = disk.hold("flush", count=1)
    disk.clear(flushes)
    until(lambda: (disk.seen("write"), disk.seen("flush")) == (2, 2))
    assert guest.quiet(0.1)
    disk.clear(last)
    assert guest.finish(barrier, after) == [OKAY] * 2
    assert disk.seen("write") == 3


def test_an_empty_barrier_is_a_drain_and_one_flush(guest, disk) -> None:
    assert guest.do(a_write(guest), guest.request(BARRIER), a_write(guest, 8)) == [OKAY] * 3
    assert disk.seen("flush") == 1


def test_barriers_follow_each_other(guest, disk) -> None:
    requests = [guest.request(BARRIER, 8 * i, guest.pages(1).segments()) for i in range(32)]
    assert guest.do(*requests) == [OKAY] * 32
    assert disk.seen("flush") == 64


def test_a_barrier_waits_for_its_own_ring_and_flushes_what_was_answered_on_any(serve_queues, disk) -> None:
    """Requests on different rings have no order, so blkback drains the barrier's ring alone, as we do."""
    first, second = serve_queues(2, disk, barrier=True).rings
    assert second.do(a_write(second)) == [OKAY]
    rule = disk.hold("write", count=1)
    busy = a_write(second)
    second.submit(busy)
    disk.wait_held(1)
    barrier = first.request(BARRIER, 8, first.pages(1).segments())
    assert first.do(barrier, a_write(first, 16)) == [OKAY] * 2
    assert disk.seen("flush") == 2 and second.quiet(0.05)
    disk.clear(rule)
    assert second.finish(busy) == [OKAY]


def test_a_barrier_that_fails_lets_the_next_request_in(guest, disk) -> None:
    disk.fail("write", 5, count=1)
    barrier, after = guest.request(BARRIER, 8, guest.pages(1).segments()), a_write(guest)
    assert guest.do(barrier, after) == [-1, OKAY]
    refused = guest.request(BARRIER, SIZE // SECTOR, guest.pages(1).segments())
    assert guest.do(refused, a_write(guest)) == [-1, OKAY]


def test_at_most_two_discards_run_at_once(guest, disk) -> None:
    rule = disk.hold("discard")
    discards = [guest.request(DISCARD, 8 * i, nr_sectors=8) for i in range(10)]
    guest.submit(*discards)
    disk.wait_held(2)
    assert guest.do(guest.request(READ, 0, guest.pages(1).segments())) == [OKAY]
    assert disk.seen("discard") == 2
    disk.clear(rule)
    assert guest.finish(*discards) == [OKAY] * 10

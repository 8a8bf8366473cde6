"""Persistent grants: the guest's pages stay mapped, no data is copied, and what is mapped is bounded and goes again."""
import os
import random
from pathlib import Path

import pytest

from tests.support.guest import BARRIER, ERROR, FLUSH, OKAY, PAGE, READ, WRITE, Guest, until
from xenvbd import disk as disks
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.disk.opener import unavailable
from xenvbd.stats import Snapshot
from xenvbd.target import parse


@pytest.fixture
def kept(serve, guests):
    """kept(disk=, **settings): a plane that serves a guest with persistent grants."""
    def make(disk=None, **settings):
        served = serve(guests(persistent=True), disk or MemoryDisk("mem:4M", 4 << 20), **settings)
        served.guest.served = served
        return served.guest

    return make


def counters(guest: Guest) -> dict[str, int]:
    return Snapshot.from_bytes(guest.served.plane.statistics()[0]).counters


def mapped(guest: Guest) -> list[int]:
    """Data pages that are mapped now."""
    return sorted(gref for _, gref in guest.machine.mappings(guest.domid) if gref not in guest.ring_pages.refs)


def pinned() -> int:
    """Pages of this process that io_uring keeps hold of."""
    return int(Path("/proc/self/status").read_text().split("VmPin:")[1].split()[0]) * 1024 // PAGE


@pytest.fixture
def image(tmp_path):
    """A file of 4 MiB, through the page cache and io_uring."""
    if unavailable():
        pytest.skip("io_uring is not available on this host")
    path = tmp_path / "image"
    path.write_bytes(os.urandom(4 << 20))
    return disks.open(parse(str(path)), engine="uring", direct=False)


def test_data_goes_to_and_from_the_guests_own_pages_without_a_copy(kept) -> None:
    guest = kept()
    pages = guest.pages(11)
    data = os.urandom(11 * PAGE)
    pages.bytes[:] = data
    assert guest.do(guest.request(WRITE, 40, pages.segments())) == [OKAY]
    pages.bytes[:] = bytes(11 * PAGE)
    assert guest.do(guest.request(READ, 40, pages.segments())) == [OKAY]
    assert bytes(pages.bytes) == data
    assert counters(guest)["grant_copies"] == 0
    assert mapped(guest) == sorted(pages.refs)
    until(lambda: counters(guest)["grants_kept"] == 11)


def test_only_the_bytes_between_first_and_last_sector_are_touched(kept) -> None:
    guest = kept()
    assert guest.write(0, b"\xaa" * PAGE) == OKAY
    pages = guest.pages(1)
    pages.bytes[:] = b"\x55" * PAGE
    assert guest.do(guest.request(READ, 0, ((pages.refs[0], 2, 4),))) == [OKAY]
    assert bytes(pages.bytes) == b"\x55" * 1024 + b"\xaa" * 1536 + b"\x55" * 1536


def test_256_pages_in_any_order_hold_what_they_should(kept) -> None:
    guest = kept()
    pages = guest.pages(256)
    order = list(range(256))
    random.Random(1).shuffle(order)
    pages.bytes[:] = data = os.urandom(256 * PAGE)
    segments = [(pages.refs[i], 0, 7) for i in order]
    assert guest.do(guest.indirect(WRITE, 0, segments)) == [OKAY]
    pages.bytes[:] = bytes(256 * PAGE)
    assert guest.do(guest.indirect(READ, 0, segments)) == [OKAY]
    assert bytes(pages.bytes) == data
    assert guest.read(0, 8) == data[order[0] * PAGE:(order[0] + 1) * PAGE]


def test_a_page_twice_in_one_request_and_in_many_is_mapped_once(kept) -> None:
    guest = kept()
    pages = guest.pages(1)
    requests = [guest.request(READ, 8 * i, pages.segments() * 3) for i in range(8)]
    assert guest.do(*requests) == [OKAY] * 8
    assert mapped(guest) == list(pages.refs)


def test_a_flush_or_barrier_with_data_is_done_on_a_copy(kept) -> None:
    guest = kept(barrier=True)
    for operation in FLUSH, BARRIER:
        pages = guest.pages(1)
        pages.bytes[:] = bytes([operation]) * PAGE
        assert guest.do(guest.request(operation, 0, pages.segments())) == [OKAY]
        assert mapped(guest) == []
        assert guest.do(guest.request(READ, 0, ((pages.refs[0], 0, 7),))) == [OKAY]
        guest.served.plane.stop(timeout=5)
        guest.served.plane.start(guest.agreement)


def test_G13_no_more_pages_than_the_cap_are_mapped_and_the_rest_is_copied(kept) -> None:
    guest = kept(max_persistent_grants=8)
    assert guest.write(0, data := os.urandom(PAGE)) == OKAY
    for _ in range(100):
        assert guest.read(0, 8) == data
        assert len(mapped(guest)) <= 8
    assert counters(guest)["grant_copies"] > 0


def test_a_request_with_more_pages_than_the_cap_is_copied_and_leaves_nothing_in_use(kept) -> None:
    guest = kept(max_persistent_grants=4, persistent_seconds=0.1)
    assert guest.write(0, data := os.urandom(11 * PAGE)) == OKAY
    assert guest.read(0, 88) == data
    until(lambda: mapped(guest) == [])


def test_room_is_made_for_the_pages_that_are_used_now(kept) -> None:
    guest = kept(max_persistent_grants=4)
    old, new = guest.pages(4), guest.pages(4)
    assert guest.do(guest.request(READ, 0, old.segments())) == [OKAY]
    assert mapped(guest) == sorted(old.refs)

    def turned() -> bool:
        assert guest.do(guest.request(READ, 0, new.segments())) == [OKAY]
        return mapped(guest) == sorted(new.refs)

    until(turned)


def test_what_is_not_used_for_a_time_is_let_go_also_while_the_guest_is_idle(kept) -> None:
    guest = kept(persistent_seconds=0.2)
    used, unused = guest.pages(1), guest.pages(3)
    assert guest.do(guest.request(READ, 0, unused.segments())) == [OKAY]

    def only_used() -> bool:
        assert guest.do(guest.request(READ, 0, used.segments())) == [OKAY]
        return mapped(guest) == list(used.refs)

    until(only_used)
    until(lambda: mapped(guest) == [])
    assert guest.do(guest.request(READ, 0, used.segments())) == [OKAY]


def test_a_page_that_the_disk_works_on_is_not_let_go(kept) -> None:
    disk = FaultDisk(MemoryDisk("mem:4M", 4 << 20))
    guest = kept(disk, max_persistent_grants=2, persistent_seconds=0.05)
    rule = disk.hold("read")
    pages = guest.pages(2)
    request = guest.request(READ, 0, pages.segments())
    guest.submit(request)
    disk.wait_held(1)
    assert guest.write(0, b"\x77" * 2 * PAGE) == OKAY
    assert guest.quiet(0.3)
    assert mapped(guest) == sorted(pages.refs)
    disk.clear(rule)
    assert guest.finish(request) == [OKAY]
    assert bytes(pages.bytes) == b"\x77" * 2 * PAGE
    until(lambda: mapped(guest) == [])


def test_when_the_plane_has_stopped_nothing_is_mapped(kept) -> None:
    guest = kept()
    assert guest.write(0, os.urandom(11 * PAGE)) == OKAY
    assert len(mapped(guest)) == 11
    assert guest.served.plane.stop(timeout=5)
    assert guest.machine.mappings(guest.domid) == []


def test_an_abandoned_guests_pages_stay_until_the_disk_is_done_with_them(kept) -> None:
    disk = FaultDisk(MemoryDisk("mem:4M", 4 << 20))
    guest = kept(disk)
    assert guest.write(0, os.urandom(3 * PAGE)) == OKAY
    rule = disk.hold("read")
    pages = guest.pages(1)
    guest.submit(guest.request(READ, 0, pages.segments()))
    disk.wait_held(1)
    guest.served.plane.stop_begin(abandon=True)
    until(lambda: guest.machine.mappings(guest.domid) == [(os.getpid(), pages.refs[0])])
    disk.clear(rule)
    assert guest.served.plane.stop(timeout=5)
    assert guest.machine.mappings(guest.domid) == []


def test_a_write_that_found_no_room_is_tried_again_from_the_same_pages(kept) -> None:
    disk = FaultDisk(MemoryDisk("mem:4M", 4 << 20))
    guest = kept(disk)
    disk.fail("write", 28, count=1)             # ENOSPC
    pages = guest.pages(2)
    pages.bytes[:] = data = os.urandom(2 * PAGE)
    request = guest.request(WRITE, 8, pages.segments())
    guest.submit(request)
    guest.served.expect("no-space")
    guest.served.plane.resume()
    assert guest.finish(request) == [OKAY]
    assert guest.read(8, 16) == data


@pytest.mark.parametrize("operation", [READ, WRITE])
@pytest.mark.parametrize("gref", [0, 99999, (1 << 32) - 1])
def test_a_page_that_is_not_granted_is_the_requests_error(kept, operation: int, gref: int) -> None:
    guest = kept()
    good = guest.pages(2)
    segments = ((good.refs[0], 0, 7), (gref, 0, 7), (good.refs[1], 0, 7))
    assert guest.do(guest.request(operation, 0, segments)) == [ERROR]
    assert guest.do(guest.request(operation, 0, good.segments())) == [OKAY]


def test_a_page_granted_read_only_can_be_written_from_and_not_read_into(kept) -> None:
    guest = kept()
    pages = guest.pages(1)
    pages.bytes[:] = b"\x31" * PAGE
    guest.machine.set_readonly(guest.domid, pages.refs[0])
    assert guest.do(guest.request(WRITE, 0, pages.segments())) == [OKAY]
    assert guest.do(guest.request(READ, 8, pages.segments())) == [ERROR]
    assert bytes(pages.bytes) == b"\x31" * PAGE
    assert guest.read(0, 8) == b"\x31" * PAGE


def test_a_page_taken_away_while_it_is_mapped_stays_valid(kept) -> None:
    guest = kept()
    assert guest.write(0, data := os.urandom(PAGE)) == OKAY
    pages = guest.pages(1)
    assert guest.do(guest.request(READ, 8, pages.segments())) == [OKAY]
    guest.machine.revoke(guest.domid, pages.refs[0])
    assert guest.do(guest.request(READ, 0, pages.segments())) == [OKAY]
    assert bytes(pages.bytes) == data


def test_no_grant_can_be_mapped_and_all_is_served_by_copies(kept, machine) -> None:
    guest = kept()
    machine.inject("map", 0, -12, count=0, domid=0)         # ENOMEM
    assert guest.write(0, data := os.urandom(11 * PAGE)) == OKAY
    assert guest.read(0, 88) == data
    assert mapped(guest) == []


def test_pages_that_cannot_be_unmapped_are_tried_again(kept, machine) -> None:
    guest = kept(persistent_seconds=0.1)
    assert guest.write(0, os.urandom(PAGE)) == OKAY
    machine.inject("unmap", 0, -16, count=2, domid=0)
    until(lambda: mapped(guest) == [])
    assert machine.fault_hits


def test_without_an_agreement_nothing_but_the_ring_is_mapped_at_any_response(serve) -> None:
    guest = serve().guest
    for _ in range(20):
        assert guest.write(0, os.urandom(PAGE)) == OKAY
        assert mapped(guest) == []


def test_io_uring_keeps_hold_of_a_page_as_long_as_it_is_mapped(kept, image) -> None:
    if image.inline_reads:
        pytest.skip("reads of this file system need no registered memory")
    guest, before = kept(image, persistent_seconds=0.1), pinned()
    pages = guest.pages(3)

    def held() -> bool:
        """Not for long, if this thread waits for a processor meanwhile."""
        assert guest.do(guest.request(READ, 0, pages.segments())) == [OKAY]
        return pinned() == before + 3

    until(held)
    until(lambda: mapped(guest) == [] and pinned() == before)


def test_registered_pages_hold_what_they_should_alone_in_part_and_with_others(kept, image) -> None:
    guest, data = kept(image), os.urandom(11 * PAGE)
    pages = guest.pages(11)
    for _ in range(3):
        pages.bytes[:] = data
        assert guest.do(guest.request(WRITE, 8, pages.segments())) == [OKAY]
        pages.bytes[:] = bytes(11 * PAGE)
        requests = [guest.request(READ, 8 * (1 + i), ((gref, 0, 7),)) for i, gref in enumerate(pages.refs)]
        assert guest.do(*requests) == [OKAY] * 11 and bytes(pages.bytes) == data
        pages.bytes[:PAGE] = bytes(PAGE)
        assert guest.do(guest.request(READ, 8, ((pages.refs[0], 3, 4),))) == [OKAY]
        assert bytes(pages.bytes[:PAGE]) == bytes(1536) + data[:1024] + bytes(1536)


def test_more_pages_than_the_engine_registers_are_served_all_the_same(kept, image) -> None:
    guest = kept(image, max_persistent_grants=4096)
    pages, page = guest.pages(2060), guest.pages(1)
    for i in range(0, 2060, 10):
        chosen = [guest.request(READ, 8 * (n % 1024), ((pages.refs[n], 0, 7),)) for n in range(i, i + 10)]
        assert guest.do(*chosen) == [OKAY] * 10
    for n in (0, 2046, 2047, 2059):
        assert guest.do(guest.request(READ, 8 * (n % 1024), ((page.refs[0], 0, 7),))) == [OKAY]
        assert bytes(page.bytes) == bytes(pages.bytes[n * PAGE:(n + 1) * PAGE])

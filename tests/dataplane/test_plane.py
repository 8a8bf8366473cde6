"""The data plane from end to end: what a guest writes is what it reads, whatever the operation, ABI and ring."""
import dataclasses
import functools
import os
import random
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.guest import BARRIER, DISCARD, EOPNOTSUPP, FLUSH, OKAY, PAGE, READ, SECTOR, WRITE, until
from xenvbd.disk.memory import MemoryDisk
from xenvbd.disk.null import NullDisk
from xenvbd.stats import Snapshot

ABIS = ["native", "x86_32-abi", "x86_64-abi"]


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("abi", ABIS)
def test_a_guest_reads_what_it_wrote(serve, guests, abi: str, order: int) -> None:
    guest = serve(guests(abi=abi, order=order)).guest
    small, large = os.urandom(11 * PAGE), os.urandom(256 * PAGE)
    assert guest.write(16, small) == OKAY
    assert guest.write(1000, large) == OKAY
    assert guest.read(16, len(small) // SECTOR) == small
    assert guest.read(1000, len(large) // SECTOR) == large
    assert guest.read(15, 1) == bytes(SECTOR)


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("abi", ABIS)
def test_every_operation_is_served_on_a_full_ring(serve, guests, abi: str, order: int) -> None:
    guest = serve(guests(abi=abi, order=order), barrier=True).guest
    pages = guest.pages(8)
    pages.bytes[:] = os.urandom(8 * PAGE)
    one = pages.segments(8)
    cycle = [
        lambda: guest.request(WRITE, 8, one), lambda: guest.request(FLUSH), lambda: guest.request(FLUSH, 16, one),
        lambda: guest.request(BARRIER, 24, one), lambda: guest.request(BARRIER),
        lambda: guest.request(DISCARD, 800, nr_sectors=8), lambda: guest.indirect(WRITE, 32, pages.segments()),
        lambda: guest.request(READ, 4000, guest.pages(1).segments())]
    requests = [cycle[i % len(cycle)]() for i in range(guest.ring.entries)]
    assert set(guest.do(*requests)) == {OKAY}
    assert guest.read(8, 8) == guest.read(16, 8) == guest.read(24, 8) == bytes(pages.bytes[:PAGE])
    assert guest.read(32, 64) == bytes(pages.bytes)


def test_only_the_asked_for_sectors_of_a_page_are_touched(serve) -> None:
    guest = serve().guest
    assert guest.write(0, b"\x11" * PAGE) == OKAY
    pages = guest.pages(1)
    pages.bytes[:] = b"\xa5" * PAGE
    assert guest.do(guest.request(READ, 0, ((pages.refs[0], 2, 4),))) == [OKAY]
    assert bytes(pages.bytes) == b"\xa5" * 1024 + b"\x11" * 1536 + b"\xa5" * 1536


def test_a_discard_gives_zeros_and_leaves_its_neighbours(serve) -> None:
    guest = serve().guest
    data = os.urandom(64 * SECTOR)
    assert guest.write(0, data) == OKAY
    assert guest.do(guest.request(DISCARD, 8, nr_sectors=48)) == [OKAY]
    assert guest.read(0, 64) == data[:8 * SECTOR] + bytes(48 * SECTOR) + data[56 * SECTOR:]


def test_a_large_discard_is_done_in_pieces(serve) -> None:
    served = serve(disk=MemoryDisk("mem:3G", 3 << 30))
    guest = served.guest
    sectors = (3 << 30) // SECTOR
    assert guest.write(sectors - 8, b"\x11" * PAGE) == OKAY
    assert guest.do(guest.request(DISCARD, 0, nr_sectors=sectors)) == [OKAY]
    assert guest.read(sectors - 8, 8) == bytes(PAGE)


def test_every_response_of_a_batch_comes_with_one_event(serve) -> None:
    served = serve(disk=NullDisk("null:1G", 1 << 30))
    guest = served.guest
    for _ in range(20):
        assert set(guest.do(*(guest.request(READ, 0, guest.pages(1).segments()) for _ in range(32)))) == {OKAY}
    stats = Snapshot.from_bytes(served.plane.statistics()[0])
    assert stats.ops["read"].ops == 640
    assert guest.events <= stats.counters["events_out"] <= stats.counters["pushes"] <= 80


def test_a_guest_that_has_to_be_woken_gets_half_of_what_it_waits_for_at_once(serve, guests) -> None:
    """128 requests in passes of 16 would be eight notifications."""
    served = serve(guests(order=2), disk=NullDisk("null:1G", 1 << 30))
    guest, page = served.guest, served.guest.pages(1).segments()
    assert guest.do(guest.request(READ, 0, page)) == [OKAY]         # it slept until that came
    before = Snapshot.from_bytes(served.plane.statistics()[0]).counters["pushes"]
    assert set(guest.do(*(guest.request(READ, 0, page) for _ in range(128)))) == {OKAY}
    assert Snapshot.from_bytes(served.plane.statistics()[0]).counters["pushes"] - before <= 5


segments = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)).map(sorted), min_size=1, max_size=30)
oddities = st.lists(st.tuples(st.sampled_from([READ, WRITE, FLUSH]), st.integers(0, 500), segments, st.booleans()),
                    min_size=1, max_size=32)


@given(plan=oddities)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_odd_but_legal_requests_do_what_a_model_says(serve, odd_guest, plan) -> None:
    """XSA-448 and its kind: one-sector segments, the same page twice, data with a flush, few segments indirect."""
    guest, model, seed = odd_guest
    for operation, sector, spans, same_page in plan:
        pages = guest.pages_for(1 if same_page else len(spans))
        table = tuple((pages.refs[0 if same_page else i], first, last) for i, (first, last) in enumerate(spans))
        make, op = guest.request, operation
        if len(spans) > 11:
            make, op = guest.indirect, WRITE if operation == FLUSH else operation
        where = [(0 if same_page else i) * PAGE + s * SECTOR for i, (a, b) in enumerate(spans)
                 for s in range(a, b + 1)]
        if op != READ:
            pages.bytes[:] = seed.randbytes(len(pages.bytes))
            for i, place in enumerate(where):
                model[sector + i] = bytes(pages.bytes[place:place + SECTOR])
        assert guest.do(make(op, sector, table)) == [OKAY]
        if op == READ:
            expected = {place: model.get(sector + i, bytes(SECTOR)) for i, place in enumerate(where)}
            assert {p: bytes(pages.bytes[p:p + SECTOR]) for p in expected} == expected


@pytest.fixture
def odd_guest(serve):
    """A guest of one disk for all examples, what the disk holds, and a source of bytes."""
    guest = serve().guest
    guest.pages_for = functools.cache(guest.pages)
    return guest, {}, random.Random(1)


def test_two_rings_with_full_queues_both_go_on(serve) -> None:
    """One hostile for the CPU, one polite: neither waits for the other."""
    flood, polite = serve(disk=NullDisk("null:1G", 1 << 30)).guest, serve().guest
    end = threading.Event()

    def keep_full() -> None:
        segments = flood.pages(1).segments()
        while not end.is_set():
            flood.do(*(flood.request(READ, 0, segments) for _ in range(32)))

    thread = threading.Thread(target=keep_full)
    thread.start()
    try:
        for sector in range(0, 800, 8):
            data = os.urandom(PAGE)
            assert polite.write(sector, data) == OKAY
            assert polite.read(sector, 8) == data
    finally:
        end.set()
        thread.join()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="nothing is polled on one processor")
def test_a_ring_that_is_polled_is_served_without_events(serve) -> None:
    served = serve(poll_ns=2_000_000_000)
    data = os.urandom(PAGE)
    for sector in range(0, 800, 8):
        assert served.guest.write(sector, data) == OKAY
        assert served.guest.read(sector, 8) == data
    assert Snapshot.from_bytes(served.plane.statistics()[0]).counters["events_in"] <= 20


def test_polling_that_finds_nothing_is_given_up(serve) -> None:
    """Each look of four milliseconds ends long before the next request, also where a thread waits for a processor."""
    served = serve(poll_ns=4_000_000)

    def given_up() -> bool:
        time.sleep(0.05)
        assert served.guest.do(served.guest.request(FLUSH)) == [OKAY]
        return served.plane.poll_windows()[0] < 50_000

    assert served.plane.poll_windows()[0] <= 4_000_000
    until(given_up, 60)


def test_barriers_are_not_supported_unless_offered(serve) -> None:
    guest = serve().guest
    assert guest.do(guest.request(BARRIER, 0, guest.pages(1).segments())) == [EOPNOTSUPP]


def test_a_guest_may_count_in_sectors_of_4096_bytes(serve, guests) -> None:
    guest = guests()
    agreement = dataclasses.replace(guest.agreement, sector_unit=4096)
    serve(guest, agreement=agreement, logical_block_size=4096)
    pages = guest.pages(12)
    pages.bytes[:] = os.urandom(12 * PAGE)
    table = tuple((gref, 0, 0) for gref in pages.refs)
    assert guest.do(guest.request(WRITE, 3, table[:1]), guest.indirect(WRITE, 4, table)) == [OKAY, OKAY]
    assert guest.do(guest.request(DISCARD, 5, nr_sectors=2)) == [OKAY]
    back = guest.pages(4)
    assert guest.do(guest.request(READ, 3, tuple((gref, 0, 0) for gref in back.refs))) == [OKAY]
    assert bytes(back.bytes) == bytes(pages.bytes[:PAGE]) * 2 + bytes(2 * PAGE)

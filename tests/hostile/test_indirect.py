"""Hostile cases I: indirect requests, and the pages that describe them."""
import os
import threading

import pytest

from tests.support.guest import BARRIER, DISCARD, ERROR, FLUSH, INDIRECT, OKAY, PAGE, READ, WRITE

CAPACITY = (4 << 20) // 512


@pytest.mark.parametrize("count", [pytest.param(0, id="I1"), pytest.param(257, id="I2"), pytest.param(512, id="I2b"),
                                   pytest.param(4096, id="I2c"), pytest.param(65535, id="I3")])
@pytest.mark.parametrize("sub", [READ, WRITE])
def test_I1_I3_a_count_of_segments_that_was_not_advertised(case, sub: int, count: int) -> None:
    hostile = case()
    guest = hostile.guest
    table = guest.pages(8)
    request = guest.request(INDIRECT, 0, sub=sub, nr_segments=count, grefs=table.refs)
    assert guest.do(request) == [ERROR]
    assert hostile.on_disk() == hostile.image


@pytest.mark.parametrize("sub", [BARRIER, FLUSH, DISCARD, INDIRECT, 4, 255])
def test_I4_an_operation_inside_that_is_neither_read_nor_write(case, sub: int) -> None:
    hostile = case(barrier=True)
    assert hostile.guest.do(hostile.guest.indirect(sub, 0, hostile.guest.pages(1).segments())) == [ERROR]
    assert hostile.on_disk() == hostile.image


def test_I5_a_table_that_is_not_granted(case) -> None:
    hostile = case()
    guest = hostile.guest
    for gref in 0, 99999, (1 << 32) - 1:
        assert guest.do(guest.indirect(WRITE, 0, guest.pages(1).segments(), grefs=(gref,))) == [ERROR]
    assert hostile.on_disk() == hostile.image


def test_I7_a_table_that_changes_while_it_is_read_is_one_table_or_the_other(case) -> None:
    """XSA-155: it is copied once, whole, before the first segment is looked at."""
    hostile = case()
    guest, end = hostile.guest, threading.Event()
    pages, table = guest.pages(2), guest.pages(1)
    good = pages.refs[0].to_bytes(4, "little") + b"\x00\x07\x00\x00"
    bad = pages.refs[1].to_bytes(4, "little") + b"\x00\xff\x00\x00"
    table.bytes[:16] = good * 2

    def flip() -> None:
        while not end.is_set():
            table.bytes[8:16] = bad
            table.bytes[8:16] = good

    thread = threading.Thread(target=flip)
    thread.start()
    seen = set()
    try:
        for _ in range(1000):
            seen |= set(guest.do(guest.request(INDIRECT, 0, sub=READ, nr_segments=2, grefs=table.refs)))
    finally:
        end.set()
        thread.join()
    assert seen <= {OKAY, ERROR}
    assert bytes(pages.bytes[PAGE:]) == bytes(PAGE), "a page that passed no check was written to"


@pytest.mark.parametrize("bad", [(1, 5, 4), (1, 0, 8), (0, 0, 7), (99999, 0, 7)])
@pytest.mark.parametrize("place", [0, 100, 255])
def test_I9_one_bad_segment_of_256_and_not_a_sector_is_written(case, place: int, bad) -> None:
    hostile = case()
    segments = list(hostile.guest.pages(256).segments())
    segments[place] = bad
    assert hostile.guest.do(hostile.guest.indirect(WRITE, 0, tuple(segments))) == [ERROR]
    assert hostile.on_disk() == hostile.image


@pytest.mark.parametrize("sector", [CAPACITY - 2047, CAPACITY - 1, CAPACITY, 1 << 55, (1 << 64) - 2048])
def test_I10_more_data_than_there_is_disk(case, sector: int) -> None:
    hostile = case()
    segments = hostile.guest.pages(256).segments()
    for sub in READ, WRITE:
        assert hostile.guest.do(hostile.guest.indirect(sub, sector, segments)) == [ERROR]
    assert hostile.on_disk() == hostile.image


@pytest.mark.parametrize("count", [1, 11])
def test_I12_few_segments_may_be_indirect_too(case, count: int) -> None:
    hostile = case()
    pages = hostile.guest.pages(count)
    pages.bytes[:] = os.urandom(count * PAGE)
    assert hostile.guest.do(hostile.guest.indirect(WRITE, 8, pages.segments())) == [OKAY]
    assert hostile.guest.read(8, count * 8) == bytes(pages.bytes)


def test_I13_a_table_that_is_its_own_data_page(case) -> None:
    """The table is copied before any data moves: what the read puts in its place is data, and nothing else."""
    hostile = case()
    guest, table = hostile.guest, hostile.guest.pages(1)
    table.bytes[:16] = 2 * (table.refs[0].to_bytes(4, "little") + bytes((0, 7, 0, 0)))
    assert guest.do(guest.request(INDIRECT, 0, sub=READ, nr_segments=2, grefs=table.refs)) == [OKAY]
    assert bytes(table.bytes) in (hostile.image[:PAGE], hostile.image[PAGE:2 * PAGE])

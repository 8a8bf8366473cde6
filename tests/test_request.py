"""Validation of requests: the rules of blkif.h one by one, and against an independent model in Python."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenvbd.request import check
from xenvbd.ring import Request

READ, WRITE, BARRIER, FLUSH, RESERVED, DISCARD, INDIRECT = range(7)
OKAY, ERROR, EOPNOTSUPP = 0, -1, -2
CAPACITY = 2048
PAGE = ((1, 0, 7),)


def status(operation: int, sector: int = 0, segments=PAGE, **kw) -> int:
    """The status of a request; keywords that are not fields of a Request are limits."""
    fields = {k: kw.pop(k) for k in ("sub", "nr_segments", "nr_sectors", "handle", "id") if k in kw}
    limits = {"capacity": CAPACITY, "barrier": True, **kw}
    return check(Request(operation, sector=sector, segments=segments, **fields), **limits)[0]


def indirect(sub: int, segments, sector: int = 0, nr_segments=None, **limits) -> int:
    nr = len(segments) if nr_segments is None else nr_segments
    request = Request(INDIRECT, sector=sector, sub=sub, nr_segments=nr, grefs=(1,) * 8)
    return check(request, segments=segments, **{"capacity": CAPACITY, **limits})[0]


def test_only_the_operations_of_blkif_h_are_known() -> None:
    for operation in set(range(256)) - {INDIRECT}:
        known = operation in (READ, WRITE, BARRIER, FLUSH, DISCARD)
        assert status(operation) == (OKAY if known else EOPNOTSUPP), operation


@pytest.mark.parametrize("operation", [READ, WRITE, BARRIER, FLUSH])
def test_a_request_has_one_to_eleven_segments_and_a_flush_may_have_none(operation: int) -> None:
    for count in range(256):
        good = count <= 11 and (count or operation in (BARRIER, FLUSH))
        expected = OKAY if good else ERROR
        assert status(operation, segments=PAGE * min(count, 11), nr_segments=count) == expected, count


def test_a_segment_starts_before_it_ends_and_ends_in_its_page() -> None:
    for first in range(256):
        for last in range(256):
            expected = OKAY if first <= last < 8 else ERROR
            assert status(READ, segments=((1, first, last),)) == expected, (first, last)


@pytest.mark.parametrize("operation", [READ, WRITE, BARRIER, FLUSH])
@pytest.mark.parametrize(("sector", "expected"), [
    (CAPACITY - 8, OKAY), (CAPACITY - 7, ERROR), (CAPACITY, ERROR), (CAPACITY + 1, ERROR), (1 << 55, ERROR),
    (1 << 63, ERROR), ((1 << 64) - 1, ERROR), ((1 << 64) - 8, ERROR)])
def test_data_lies_on_the_disk(operation: int, sector: int, expected: int) -> None:
    assert status(operation, sector) == expected


@pytest.mark.parametrize(("sector", "count", "expected"), [
    (0, CAPACITY, OKAY), (0, CAPACITY + 1, ERROR), (CAPACITY, 0, OKAY), (CAPACITY + 1, 0, ERROR),
    (5, 0, OKAY), (CAPACITY, 1, ERROR), (1, (1 << 64) - 1, ERROR), ((1 << 64) - 1, 2, ERROR),
    (1 << 63, 1 << 63, ERROR)])
def test_a_discard_lies_on_the_disk_and_its_end_does_not_wrap(sector: int, count: int, expected: int) -> None:
    assert status(DISCARD, sector, (), nr_sectors=count) == expected


def test_a_discard_with_any_flag_is_not_supported() -> None:
    for flag in range(1, 256):
        assert status(DISCARD, 0, (), nr_sectors=8, sub=flag) == EOPNOTSUPP


@pytest.mark.parametrize("sector", [0, CAPACITY, (1 << 64) - 1])
def test_a_flush_without_data_may_name_any_sector(sector: int) -> None:
    assert status(FLUSH, sector, ()) == status(BARRIER, sector, ()) == OKAY


def test_what_was_not_advertised_is_not_supported() -> None:
    assert status(BARRIER, barrier=False) == EOPNOTSUPP
    assert status(DISCARD, 0, (), nr_sectors=8, discard=False) == EOPNOTSUPP
    assert indirect(READ, PAGE, max_indirect=0) == EOPNOTSUPP
    assert indirect(FLUSH, PAGE, max_indirect=0) == EOPNOTSUPP


@pytest.mark.parametrize("discard", [True, False])
def test_a_read_only_disk_takes_nothing_that_would_change_it(discard: bool) -> None:
    limits = {"read_only": True, "discard": discard}
    assert status(READ, **limits) == status(FLUSH, 0, (), **limits) == OKAY
    for operation in WRITE, BARRIER, FLUSH:
        assert status(operation, **limits) == ERROR
    assert status(BARRIER, 0, (), **limits) == ERROR
    assert status(DISCARD, 0, (), nr_sectors=8, **limits) == ERROR
    assert indirect(READ, PAGE, read_only=True) == OKAY
    assert indirect(WRITE, PAGE, read_only=True) == ERROR


@pytest.mark.parametrize(("sector", "segments", "expected"), [
    (0, PAGE, OKAY), (8, PAGE, OKAY), (4, PAGE, ERROR), (0, ((1, 0, 3),), ERROR),
    (0, ((1, 4, 7), (2, 0, 3)), OKAY)])
def test_data_comes_in_logical_blocks(sector: int, segments, expected: int) -> None:
    assert status(READ, sector, segments, logical_block_size=4096) == expected


def test_a_discard_comes_in_logical_blocks() -> None:
    assert status(DISCARD, 8, (), nr_sectors=16, logical_block_size=4096) == OKAY
    assert status(DISCARD, 4, (), nr_sectors=16, logical_block_size=4096) == ERROR


@pytest.mark.parametrize(("count", "expected"), [(0, ERROR), (1, OKAY), (11, OKAY), (256, OKAY), (257, ERROR),
                                                 (65535, ERROR)])
def test_an_indirect_request_has_as_many_segments_as_were_advertised(count: int, expected: int) -> None:
    assert indirect(READ, PAGE * min(count, 256), nr_segments=count, capacity=4096) == expected


def test_an_indirect_request_reads_or_writes() -> None:
    assert indirect(READ, PAGE) == indirect(WRITE, PAGE) == OKAY
    for sub in range(2, 256):
        assert indirect(sub, PAGE) == ERROR, sub


def test_every_segment_of_an_indirect_request_is_looked_at() -> None:
    good = PAGE * 256
    assert indirect(WRITE, good) == OKAY
    for bad in (1, 5, 4), (1, 0, 8), (1, 255, 255):
        for place in 0, 100, 255:
            assert indirect(WRITE, (*good[:place], bad, *good[place + 1:])) == ERROR
    assert indirect(WRITE, good, sector=1) == ERROR


def test_the_response_to_an_indirect_request_carries_the_operation_inside() -> None:
    request = Request(INDIRECT, sub=WRITE, nr_segments=1, grefs=(1,))
    assert check(request, capacity=8, segments=PAGE)[:2] == (OKAY, WRITE)
    assert check(request, capacity=7, segments=PAGE)[:2] == (ERROR, WRITE)


@pytest.mark.parametrize(("sector", "first", "last", "expected"), [
    (0, 0, 0, OKAY), (255, 0, 0, OKAY), (256, 0, 0, ERROR), (0, 0, 1, ERROR), (0, 1, 1, ERROR), (0, 255, 255, ERROR),
    (0, 32, 0, ERROR), (1 << 61, 0, 0, ERROR), ((1 << 61) + 255, 0, 0, ERROR), ((1 << 64) - 1, 0, 0, ERROR)])
def test_a_frontend_may_count_in_larger_sectors(sector: int, first: int, last: int, expected: int) -> None:
    """feature-large-sector-size as QEMU reads it: a page is one sector of 4096 bytes, a disk of 2048 is 256."""
    large = {"logical_block_size": 4096, "sector_unit": 4096}
    assert status(READ, sector, ((1, first, last),), **large) == expected
    assert indirect(READ, ((1, first, last),), sector, **large) == expected


def test_a_discard_may_count_in_larger_sectors() -> None:
    for sector, count, expected in (0, 256, OKAY), (1, 256, ERROR), (1, (1 << 61), ERROR), (1 << 63, 1, ERROR):
        assert status(DISCARD, sector, (), nr_sectors=count, logical_block_size=4096, sector_unit=4096) == expected


# The model: written from blkif.h and from nothing else.

def model_data(r: Request, segments, limits: dict) -> tuple[int, int]:
    """(status, sectors) of a request with data."""
    sectors = []
    for _gref, first, last in segments:
        sectors += range(first, last + 1)
        if last not in range(first, 8):
            return ERROR, 0
    end, block = r.sector + len(sectors), limits["logical_block_size"] // 512
    if end > limits["capacity"] or r.sector % block or end % block:
        return ERROR, 0
    return OKAY, len(sectors)


def model(r: Request, segments, limits: dict) -> tuple[int, int]:
    """(status, sectors of data) that blkif.h prescribes."""
    name = {0: "read", 1: "write", 2: "barrier", 3: "flush", 5: "discard", 6: "indirect"}.get(r.operation)
    nr = r.nr_segments if name == "indirect" or r.nr_segments is not None else len(r.segments)
    if name is None or (name == "indirect" and not limits["max_indirect"]):
        return EOPNOTSUPP, 0
    if name == "indirect" and r.sub not in (READ, WRITE):
        return ERROR, 0
    changes = (name in ("write", "barrier", "discard") or (name == "flush" and nr)
               or (name == "indirect" and r.sub == WRITE))
    if changes and limits["read_only"]:
        return ERROR, 0
    if name in ("barrier", "discard") and not limits[name]:
        return EOPNOTSUPP, 0
    if name == "discard":
        block = limits["logical_block_size"] // 512
        good = r.sector + r.nr_sectors <= limits["capacity"] and r.sector % block == r.nr_sectors % block == 0
        return (EOPNOTSUPP if r.sub else OKAY if good else ERROR), 0
    if name == "indirect":
        return model_data(r, segments, limits) if 1 <= nr <= limits["max_indirect"] else (ERROR, 0)
    if nr == 0:
        return (OKAY if name in ("flush", "barrier") else ERROR), 0
    return model_data(r, r.segments[:nr], limits) if nr <= 11 else (ERROR, 0)


sectors = st.one_of(st.integers(0, 5000), st.integers(0, (1 << 64) - 1), st.sampled_from([1 << 55, 1 << 63]))
segment = st.one_of(st.just((1, 0, 7)), st.tuples(st.just(1), st.integers(0, 9), st.integers(0, 9)))
segment_lists = st.lists(segment, max_size=11).map(tuple)
all_limits = st.fixed_dictionaries({
    "capacity": st.integers(0, 5000), "read_only": st.booleans(), "discard": st.booleans(),
    "barrier": st.booleans(), "max_indirect": st.sampled_from([0, 1, 11, 256]),
    "logical_block_size": st.sampled_from([512, 1024, 4096])})
direct = st.builds(Request, operation=st.sampled_from([READ, WRITE, BARRIER, FLUSH, RESERVED, 7, 255]),
                   sector=sectors, segments=segment_lists, handle=st.integers(0, 65535))
discards = st.builds(Request, operation=st.just(DISCARD), sector=sectors, nr_sectors=sectors,
                     sub=st.one_of(st.just(0), st.integers(0, 255)))


@given(request_=st.one_of(direct, discards), limits=all_limits)
@settings(max_examples=500)
def test_direct_requests_are_judged_as_the_model_judges_them(request_: Request, limits: dict) -> None:
    got = check(request_, **limits)
    assert (got[0], got[3]) == model(request_, (), limits)


@given(sub=st.integers(0, 7), sector=sectors, nr=st.integers(0, 300), limits=all_limits, data=st.data())
@settings(max_examples=300)
def test_indirect_requests_are_judged_as_the_model_judges_them(sub, sector, nr, limits, data) -> None:
    pattern = data.draw(st.lists(segment, min_size=1, max_size=9))
    segments = [pattern[i % len(pattern)] for i in range(nr)]
    request_ = Request(INDIRECT, sector=sector, sub=sub, nr_segments=nr, grefs=(1,) * 8)
    got = check(request_, segments=segments, **limits)
    assert (got[0], got[3]) == model(request_, segments, limits)

"""Hostile cases Q: requests that break blkif.h's rules.  Each gets one answer, and does nothing."""
import os
import time

import pytest

from tests.support.guest import BARRIER, DISCARD, EOPNOTSUPP, ERROR, FLUSH, OKAY, PAGE, READ, RESERVED, WRITE
from xenvbd.features import read_agreement
from xenvbd.properties import Properties
from xenvbd.target import parse
from xenvbd.vdev import parse as parse_vdev

CAPACITY = (4 << 20) // 512


def refused(case, expected: int, operation: int, sector: int = 0, segments=None, **fields) -> None:
    """The request gets this status; the ring goes on; the image is what it was."""
    hostile = case
    guest = hostile.guest
    if segments is None:
        segments = guest.pages(1).segments()
    assert guest.do(guest.request(operation, sector, segments, **fields)) == [expected]
    assert guest.read(0, 8) == hostile.image[:PAGE]
    assert hostile.on_disk() == hostile.image


def test_Q1_the_reserved_operation_is_not_supported(case) -> None:
    refused(case(), EOPNOTSUPP, RESERVED)


def test_Q2_no_operation_that_blkif_h_does_not_know_is_supported(case) -> None:
    hostile = case()
    for operation in range(7, 256):
        assert hostile.guest.do(hostile.guest.request(operation, 0, ((1, 0, 7),))) == [EOPNOTSUPP], operation
    assert hostile.counters()["unsupported"] == 249


@pytest.mark.parametrize("abi", ["native", "x86_32-abi", "x86_64-abi"])
@pytest.mark.parametrize("count", [12, 255])
def test_Q3_more_segments_than_a_request_has_room_for(case, abi: str, count: int) -> None:
    hostile = case(ring={"abi": abi})
    segments = hostile.guest.pages(11).segments()
    for operation in READ, WRITE, FLUSH:
        refused(hostile, ERROR, operation, 0, segments, nr_segments=count)


def test_Q4_a_read_or_write_of_nothing(case) -> None:
    hostile = case()
    refused(hostile, ERROR, READ, 0, ())
    refused(hostile, ERROR, WRITE, 0, ())


def test_Q5_a_flush_of_nothing_is_what_a_flush_is(case) -> None:
    refused(case(), OKAY, FLUSH, (1 << 64) - 1, ())


def test_Q7_Q8_a_segment_that_ends_before_it_starts_or_outside_its_page(case) -> None:
    hostile = case()
    gref = hostile.guest.pages(1).refs[0]
    for first, last in (5, 4), (7, 0), (0, 8), (0, 255), (255, 255), (8, 8):
        for operation in READ, WRITE, FLUSH:
            assert hostile.guest.do(hostile.guest.request(operation, 0, ((gref, first, last),))) == [ERROR]
    assert hostile.on_disk() == hostile.image


def test_Q9_the_last_sector_of_a_page_alone(case) -> None:
    hostile = case()
    pages = hostile.guest.pages(1)
    assert hostile.guest.do(hostile.guest.request(READ, 3, ((pages.refs[0], 7, 7),))) == [OKAY]
    assert bytes(pages.bytes) == bytes(PAGE - 512) + hostile.image[3 * 512:4 * 512]


@pytest.mark.parametrize("operation", [READ, WRITE, FLUSH])
@pytest.mark.parametrize("sector", [
    pytest.param(CAPACITY, id="Q10"), pytest.param(CAPACITY - 7, id="Q11"), pytest.param((1 << 64) - 1, id="Q12"),
    pytest.param(1 << 55, id="Q13"), pytest.param(1 << 63, id="Q13b"), pytest.param((1 << 64) - 8, id="Q12b")])
def test_Q10_Q13_data_beyond_the_end_of_the_disk(case, operation: int, sector: int) -> None:
    refused(case(), ERROR, operation, sector)


@pytest.mark.parametrize(("sector", "last"), [(4, 7), (0, 3), (8, 6)])
def test_Q14_data_that_is_not_in_logical_blocks(case, sector: int, last: int) -> None:
    hostile = case(logical_block_size=4096)
    gref = hostile.guest.pages(1).refs[0]
    for operation in READ, WRITE:
        refused(hostile, ERROR, operation, sector, ((gref, 0, last),))


def test_Q15_the_handle_means_nothing(case) -> None:
    guest = case().guest
    for handle in 0, 1, 51712, 65535:
        assert guest.do(guest.request(READ, 0, guest.pages(1).segments(), handle=handle)) == [OKAY]


def test_Q17_any_id_is_echoed(case) -> None:
    guest = case().guest
    for id_ in (1 << 64) - 1, 1 << 63, 0xDEADBEEF00000001:
        assert guest.do(guest.request(READ, 0, guest.pages(1).segments(), id=id_)) == [OKAY]


def test_Q18_the_same_page_eleven_times(case) -> None:
    hostile = case()
    pages = hostile.guest.pages(1)
    pages.bytes[:] = os.urandom(PAGE)
    segments = pages.segments() * 11
    assert hostile.guest.do(hostile.guest.request(WRITE, 0, segments)) == [OKAY]
    assert hostile.guest.read(0, 88) == bytes(pages.bytes) * 11


def test_Q19_Q20_D7_a_read_only_disk_is_not_changed(case) -> None:
    """CVE-2013-2140: it is not WRITE alone that writes."""
    hostile = case(read_only=True, barrier=True)
    guest = hostile.guest
    segments = guest.pages(1).segments()
    attacks = [guest.request(WRITE, 0, segments), guest.request(FLUSH, 0, segments),
               guest.request(BARRIER, 0, segments), guest.request(BARRIER), guest.indirect(WRITE, 0, segments),
               guest.request(DISCARD, 0, nr_sectors=8)]
    assert set(guest.do(*attacks)) == {ERROR}
    assert guest.do(guest.request(FLUSH), guest.request(READ, 0, segments)) == [OKAY, OKAY]
    assert hostile.on_disk() == hostile.image


def test_Q21_D9_I11_what_was_not_advertised_is_not_supported(case) -> None:
    hostile = case(discard=False, max_indirect=0)
    guest = hostile.guest
    segments = guest.pages(1).segments()
    assert guest.do(guest.request(BARRIER, 0, segments), guest.request(DISCARD, 0, nr_sectors=8),
                    guest.indirect(READ, 0, segments)) == [EOPNOTSUPP] * 3
    assert hostile.on_disk() == hostile.image


@pytest.mark.parametrize("vdev", ["hdc", "sdb", "xvdq", "d4p1"])
def test_Q24_a_cdrom_is_read_only_whatever_its_name_and_whatever_the_guest_says_it_is(case, vdev: str) -> None:
    """device-type is the toolstack's; the frontend's own node of that name is not read."""
    properties = Properties(domid=3, vdev=parse_vdev(vdev), target=parse("/srv/a.iso"), device_type="cdrom", mode="w")
    assert properties.read_only
    asked = []
    read_agreement(lambda name: asked.append(name) or {"ring-ref": b"8", "event-channel": b"9"}.get(name), properties)
    assert "device-type" not in asked and "virtual-device" not in asked and "mode" not in asked
    hostile = case(read_only=properties.read_only)
    refused(hostile, ERROR, WRITE)
    for packet in range(4, 256, 50):            # no packet command of a drive
        refused(hostile, ERROR if packet == 6 else EOPNOTSUPP, packet, 0, ((1, 0, 7),))


def test_Q25_one_id_for_all_requests_in_flight(case) -> None:
    """Ids are the guest's own affair: as many answers come as there were requests."""
    guest = case().guest
    segments = guest.pages(1).segments()
    for i in range(32):
        guest.ring.put(guest.request(READ, 8 * i, segments, id=7))
    guest.push()
    answers = []
    while len(answers) < 32:
        while guest.ring.pending():
            answers.append(guest.ring.take())
        if len(answers) < 32 and not guest.ring.final_check():
            guest.wait()
    assert answers == [(7, READ, OKAY)] * 32


def test_Q23_a_flood_of_bad_requests_is_looked_at_a_thousand_times_a_second(case) -> None:
    hostile = case()
    guest, started, count = hostile.guest, time.monotonic(), 0
    while time.monotonic() - started < 0.5:
        assert set(guest.do(*(guest.request(255) for _ in range(32)))) == {EOPNOTSUPP}
        count += 1
    assert count <= 32 + 1100 * (time.monotonic() - started)
    assert guest.do(guest.request(READ, 0, guest.pages(1).segments())) == [OKAY]

"""Hostile cases K: a frontend that lies about the ring (CVE-2010-4247, XSA-155, XSA-86)."""
import os
import struct
import threading

import pytest

from tests.support.guest import EOPNOTSUPP, ERROR, OKAY, PAGE, READ, WRITE, Agreement, Guest, Ring, until
from xenvbd.dataplane import DataPlane
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.errors import ProtocolError

REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = range(4)


def reads(guest, count: int) -> list:
    segments = guest.pages(1).segments()
    return [guest.request(READ, 8 * i, segments) for i in range(count)]


@pytest.mark.parametrize("order", [0, 4])
@pytest.mark.parametrize("index", [0, (1 << 32) - 3])
def test_K1_a_producer_one_beyond_the_ring_is_quarantined(case, order: int, index: int) -> None:
    hostile = case(ring={"order": order, "index": index})
    assert hostile.guest.do(*reads(hostile.guest, 5)) == [OKAY] * 5
    hostile.poke(REQ_PROD, index + 5 + hostile.guest.ring.entries + 1)
    hostile.expect_quarantine()


@pytest.mark.parametrize("ahead", [1 << 31, (1 << 31) - 1, (1 << 31) + 1])
def test_K2_a_producer_half_the_numbers_ahead_is_quarantined(case, ahead: int) -> None:
    hostile = case()
    hostile.poke(REQ_PROD, ahead)
    hostile.expect_quarantine()


@pytest.mark.parametrize("back", [1, 2, 100])
def test_K3_a_producer_that_goes_back_is_quarantined(case, back: int) -> None:
    hostile = case()
    assert hostile.guest.do(*reads(hostile.guest, 3)) == [OKAY] * 3
    hostile.poke(REQ_PROD, 3 - back)
    hostile.expect_quarantine()


@pytest.mark.parametrize("order", range(5))
def test_K4_a_full_ring_is_served(case, order: int) -> None:
    guest = case(ring={"order": order}).guest
    for _ in range(3):
        assert set(guest.do(*(guest.request(READ, 0, guest.pages(1).segments())
                              for _ in range(guest.ring.entries)))) == {OKAY}


def test_K5_indices_that_wrap_are_served(case) -> None:
    hostile = case(ring={"index": (1 << 32) - 40})
    for _ in range(10):
        assert hostile.guest.do(*reads(hostile.guest, 9)) == [OKAY] * 9


def test_K6_a_ring_that_is_not_fresh_is_taken_where_its_responses_are(case, serve, guests) -> None:
    hostile = case()
    assert hostile.guest.do(*reads(hostile.guest, 7)) == [OKAY] * 7
    hostile.served.plane.stop()
    waiting = reads(hostile.guest, 5)
    hostile.guest.submit(*waiting)
    again = serve(hostile.guest, hostile.disk)
    assert hostile.guest.finish(*waiting) == [OKAY] * 5
    assert again.plane.statistics()[0] is not None


def test_K6_a_ring_that_claims_too_much_from_the_start_is_refused(machine, guests) -> None:
    guest = guests()
    memoryview(guest.ring_pages)[0:16] = struct.pack("=IIII", 33, 1, 0, 1)
    plane = DataPlane(machine.join(0), MemoryDisk("mem:4M", 4 << 20))
    with pytest.raises(ProtocolError):
        plane.start(guest.agreement)
    plane.destroy()


def test_K7_K10_what_the_guest_writes_into_our_fields_has_no_effect(case) -> None:
    hostile = case()
    for i in range(50):
        hostile.poke(RSP_PROD, 0x12345678 * i)
        hostile.ring[16:64] = os.urandom(48)
        request = reads(hostile.guest, 1)[0]
        hostile.guest.put(request)
        hostile.guest.ring.push()
        hostile.guest.evtchn.notify(hostile.guest.port)
        until(lambda now=i + 1: struct.unpack_from("=I", hostile.ring, 8) == (now,))
        assert hostile.guest.finish(request) == [OKAY]


@pytest.mark.parametrize(("offset", "good", "bad"), [
    (16, struct.pack("=Q", 0), struct.pack("=Q", 1 << 40)),     # sector
    (1, b"\x01", b"\x0c"),                                      # nr_segments
    (28, b"\x00\x07", b"\x07\x00"),                             # first_sect, last_sect
    (0, b"\x00", b"\xff")])                                     # operation
def test_K11_a_slot_that_changes_while_it_is_read_is_one_request_or_the_other(case, offset, good, bad) -> None:
    """XSA-155: a value that passed its check is the one that is used."""
    hostile = case(ring={"abi": "x86_64-abi"})
    guest, pages = hostile.guest, hostile.guest.pages(1)
    end = threading.Event()

    def flip() -> None:
        while not end.is_set():
            for slot in range(32):
                at = 64 + 112 * slot + offset
                hostile.ring[at:at + len(bad)] = bad
                hostile.ring[at:at + len(good)] = good

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for i in range(3000):
            guest.ring.put(guest.request(READ, 0, pages.segments(), id=i + 1))
            guest.push()
            while not guest.ring.pending():
                if not guest.ring.final_check():
                    guest.wait()
            _id, _operation, status = guest.ring.take()
            assert status in (OKAY, ERROR, EOPNOTSUPP)
            if bytes(pages.bytes[:512]) != bytes(512):
                assert bytes(pages.bytes) == hostile.image[:PAGE]
                pages.bytes[:] = bytes(PAGE)
    finally:
        end.set()
        thread.join()
    assert hostile.counters()["quarantined"] == 0


def test_K12_K13_slots_scribbled_on_while_in_flight_change_nothing(serve, guests) -> None:
    disk = FaultDisk(MemoryDisk("mem:4M", 4 << 20))
    guest = serve(guests(), disk).guest
    rule = disk.hold("any")
    pages = guest.pages(1)
    pages.bytes[:] = os.urandom(PAGE)
    request = guest.request(WRITE, 8, pages.segments())
    guest.submit(request)
    disk.wait_held(1)
    ring = memoryview(guest.ring_pages)
    ring[64:] = b"\xff" * (len(ring) - 64)
    ring.release()
    disk.clear(rule)
    assert guest.finish(request) == [OKAY]
    assert guest.read(8, 8) == bytes(pages.bytes)


@pytest.mark.parametrize("operation", [READ, WRITE])
def test_K14_the_ring_as_a_data_page_harms_nobody_else(case, operation: int) -> None:
    hostile = case()
    guest = hostile.guest
    for _ in range(20):
        guest.ring.put(guest.request(operation, 0, ((guest.ring_pages.refs[0], 1, 7),)))
        guest.push()
    until(lambda: hostile.counters()["pushes"] > 0)
    assert hostile.served.plane.stop(timeout=5)


@pytest.mark.parametrize(("spoken", "declared"), [("x86_32-abi", "x86_64-abi"), ("x86_64-abi", "x86_32-abi")])
def test_K15_the_wrong_abi_gets_garbage_back_and_does_no_harm(machine, serve, spoken: str, declared: str) -> None:
    machine.add_domain(99)
    guest = Guest(machine, 99, abi=spoken)
    agreement = Agreement(99, 51712, declared, (Ring(guest.ring_pages.refs, guest.port),))
    served = serve(guest, agreement=agreement)
    served.cleanup.append(guest.close)
    for i in range(guest.ring.free()):
        guest.ring.put(guest.request(i % 7, i, guest.pages(1).segments()))
    guest.push()
    until(lambda: any(served.plane.statistics()[0][8:]))
    assert served.plane.stop(timeout=5)


def test_X11_the_same_page_twice_in_a_ring_harms_nobody_else(machine, guests) -> None:
    guest = guests(order=1)
    agreement = Agreement(guest.domid, 51712, "native", (Ring(guest.ring_pages.refs[:1] * 2, guest.port),))
    plane = DataPlane(machine.join(0), MemoryDisk("mem:4M", 4 << 20))
    plane.start(agreement)
    guest.submit(*reads(guest, 8))
    until(lambda: any(plane.statistics()[0][8:]))
    assert plane.stop(timeout=5)
    plane.destroy()

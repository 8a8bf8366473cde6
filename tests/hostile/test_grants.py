"""Hostile cases G: grants that are missing, of another kind, taken away; copies that lie (XSA-318, XSA-365)."""
import os

import pytest

from tests.support.guest import ERROR, FLUSH, OKAY, PAGE, READ, WRITE, Agreement, Ring
from xenvbd.dataplane import DataPlane
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.errors import HypervisorError

GNTST_general_error = -1


@pytest.mark.parametrize("operation", [READ, WRITE, FLUSH])
@pytest.mark.parametrize("gref", [0, 99999, (1 << 32) - 1])
def test_G1_a_page_that_is_not_granted(case, operation: int, gref: int) -> None:
    hostile = case()
    assert hostile.guest.do(hostile.guest.request(operation, 0, ((gref, 0, 7),))) == [ERROR]
    assert hostile.counters()["grant_errors"] == 1
    assert hostile.on_disk() == hostile.image


def test_G2_a_read_into_a_page_that_is_granted_read_only(case) -> None:
    hostile = case()
    guest = hostile.guest
    pages = guest.pages(1)
    guest.machine.set_readonly(guest.domid, pages.refs[0])
    assert guest.do(guest.request(READ, 0, pages.segments())) == [ERROR]
    assert bytes(pages.bytes) == bytes(PAGE)
    assert guest.do(guest.request(WRITE, 0, pages.segments())) == [OKAY], "for a write it will do"


def test_G3_a_page_that_is_granted_to_another_domain(case, machine) -> None:
    hostile = case()
    machine.add_domain(50)
    machine.grant(hostile.guest.domid, 4000, 50)
    for operation in READ, WRITE:
        assert hostile.guest.do(hostile.guest.request(operation, 0, ((4000, 0, 7),))) == [ERROR]
    assert hostile.on_disk() == hostile.image


@pytest.fixture
def slow(serve, guests):
    """A guest whose disk holds operations back on demand."""
    served = serve(guests(), FaultDisk(MemoryDisk("mem:4M", 4 << 20)))
    served.guest.disk = served.disk
    return served.guest


def test_G4_G10_a_page_taken_away_before_it_is_copied(case) -> None:
    hostile = case()
    guest = hostile.guest
    pages = guest.pages(2)
    guest.machine.revoke(guest.domid, pages.refs[1])
    for operation in READ, WRITE:
        assert guest.do(guest.request(operation, 0, pages.segments())) == [ERROR]
    assert hostile.on_disk() == hostile.image


def test_G5_a_page_taken_away_after_its_data_was_copied_in(slow) -> None:
    rule = slow.disk.hold("write")
    pages = slow.pages(1)
    pages.bytes[:] = b"\x11" * PAGE
    request = slow.request(WRITE, 0, pages.segments())
    slow.submit(request)
    slow.disk.wait_held(1)
    slow.machine.revoke(slow.domid, pages.refs[0])
    slow.disk.clear(rule)
    assert slow.finish(request) == [OKAY]
    assert slow.read(0, 8) == b"\x11" * PAGE


def test_G6_a_page_taken_away_before_what_was_read_is_copied_out(slow) -> None:
    rule = slow.disk.hold("read")
    pages = slow.pages(2)
    request = slow.request(READ, 0, pages.segments())
    slow.submit(request)
    slow.disk.wait_held(1)
    slow.machine.revoke(slow.domid, pages.refs[1])
    slow.disk.clear(rule)
    assert slow.finish(request) == [ERROR]


def test_G9_ring_pages_taken_away_while_they_are_mapped(case) -> None:
    hostile = case(ring={"order": 1})
    guest = hostile.guest
    for gref in guest.ring_pages.refs:
        guest.machine.revoke(guest.domid, gref)
    assert guest.read(0, 8) == hostile.image[:PAGE], "the mapping stays valid"


@pytest.mark.parametrize("nth", range(11))
@pytest.mark.parametrize("operation", [READ, WRITE])
def test_each_single_failure_of_eleven_copies_fails_the_request_and_no_other(case, machine, operation, nth) -> None:
    hostile = case()
    guest = hostile.guest
    pages, other = guest.pages(11), guest.pages(1)
    victim = guest.request(operation, 0, pages.segments())
    machine.inject("copy", nth, GNTST_general_error, domid=0)
    assert guest.do(victim) == [ERROR]
    machine.clear_faults()
    assert guest.do(guest.request(operation, 0, other.segments())) == [OKAY]
    assert hostile.on_disk()[PAGE:] == hostile.image[PAGE:]


def test_a_copy_call_that_fails_as_a_whole_fails_every_request_of_its_batch(case, machine) -> None:
    hostile = case()
    guest = hostile.guest
    machine.inject("copy-call", 0, -12, domid=0)
    requests = [guest.request(WRITE, 8 * i, guest.pages(1).segments()) for i in range(8)]
    statuses = guest.do(*requests)
    assert ERROR in statuses
    machine.clear_faults()
    before = hostile.on_disk()
    for i, status in enumerate(statuses):
        expected = bytes(PAGE) if status == OKAY else hostile.image[i * PAGE:(i + 1) * PAGE]
        assert before[i * PAGE:(i + 1) * PAGE] == expected


def test_G11_a_copy_that_lies_shows_nobody_elses_data(case, machine, victim) -> None:
    """XSA-318: it says okay and does nothing.  What the buffers held may show; it is this guest's, or zero."""
    hostile = case()
    guest = hostile.guest
    secret = b"SECRET OF ANOTHER DOMAIN" * 1000
    victim_data = secret[:20 * 512 * 2][:8192]
    assert victim.write(64, victim_data) == OKAY
    assert victim.read(64, 16) == victim_data
    machine.inject("copy-lie", 0, 0, count=0, domid=0)
    pages = guest.pages(11)
    pages.bytes[:] = b"\x55" * (11 * PAGE)
    for sector in range(0, 2048, 88):
        assert guest.do(guest.request(WRITE, sector, pages.segments())) == [OKAY]
        assert guest.do(guest.request(READ, sector, pages.segments())) == [OKAY]
    assert bytes(pages.bytes) == b"\x55" * (11 * PAGE)
    machine.clear_faults()
    assert b"SECRET" not in hostile.on_disk()


# grant_table.h: what a copy of a transitive, sub-page or version 2 grant, or of a page that is paged out, may come to.
GNTST = range(-13, 0)


@pytest.mark.parametrize("status", [*GNTST, 1, -32768, 32767])
@pytest.mark.parametrize("operation", [READ, WRITE])
def test_G8_a_grant_of_another_kind_is_copied_exactly_or_the_request_fails(case, machine, operation, status) -> None:
    """Any status but 0 is a failure, whichever it is."""
    hostile = case()
    guest = hostile.guest
    pages = guest.pages(3)
    machine.inject("copy", 1, status, domid=0)
    assert guest.do(guest.request(operation, 0, pages.segments())) == [ERROR]
    machine.clear_faults()
    assert hostile.on_disk() == hostile.image
    assert guest.do(guest.request(READ, 0, pages.segments())) == [OKAY]
    assert bytes(pages.bytes) == hostile.image[:3 * PAGE]


@pytest.mark.parametrize("kind", ["nothing", "another domain's", "read-only"])
def test_G12_a_ring_reference_that_is_no_ring_of_ours_is_refused(machine, guests, kind: str) -> None:
    guest = guests()
    machine.add_domain(60)
    machine.grant(guest.domid, 4000, 60 if kind == "another domain's" else 0, readonly=kind == "read-only")
    if kind == "nothing":
        machine.revoke(guest.domid, 4000)
    plane = DataPlane(machine.join(0), MemoryDisk("mem:4M", 4 << 20))
    with pytest.raises(HypervisorError):
        plane.start(Agreement(guest.domid, 51712, "native", (Ring((4000,), guest.port),)))
    plane.destroy()


def test_a_domain_that_is_gone_loses_its_answers_and_nothing_else(case, machine, slow) -> None:
    """X20: the ring stays mapped until the plane is stopped, the buffers until the disk is done."""
    rule = slow.disk.hold("any")
    pages = slow.pages(1)
    pages.bytes[:] = os.urandom(PAGE)
    requests = slow.request(WRITE, 0, pages.segments()), slow.request(READ, 0, pages.segments())
    slow.submit(*requests)
    slow.disk.wait_held(2)
    for gref in pages.refs:
        slow.machine.revoke(slow.domid, gref)
    slow.disk.clear(rule)
    assert slow.finish(*requests) == [OKAY, ERROR]

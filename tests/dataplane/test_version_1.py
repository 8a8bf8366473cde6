"""The journals of xenvbd 0.1, which have no nonce: what proves that a ring is still theirs, and what is done where
nothing does (generation.pyx)."""
import errno
import struct
import tempfile
from dataclasses import replace

import pytest

from tests.support.guest import OKAY, READ, WRITE, until
from tests.support.succession import (
    NONCE,
    REQ_PROD,
    RSP_PROD,
    Succession,
    begin_anew,
    make_version_1,
    set_shared,
    shared,
)
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.errors import ProtocolError
from xenvbd.journal import version_of

OLD = bytes([1]) * 4096
ENTRIES = 32
ABIS = pytest.mark.parametrize("abi, order", [("native", 0), ("x86_32-abi", 0), ("x86_64-abi", 2)])
HELD = "nothing proves that the guest's ring is still the one"


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(MemoryDisk("mem:4M", 4 << 20))


@pytest.fixture
def left(serve, guests, machine, disk):
    """left(answered=, waiting=): a ring whose journal is of version 1: so many requests were answered on it, and so
    many writes are left in it that the disk had no room for."""
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        def make(answered=0, waiting=0, unit=512, **options) -> Succession:
            asking = guests(**options)
            agreement = replace(asking.agreement, sector_unit=unit)
            served = serve(asking, disk=disk, journal=file.fileno(), agreement=agreement, logical_block_size=unit)
            ring = Succession(served, machine, file.fileno(), agreement)
            guest = ring.served.guest
            assert [guest.write(8 * (i % 16), OLD) for i in range(answered)] == [OKAY] * answered
            full = disk.fail("write", errno.ENOSPC)
            ring.requests, pages = [], guest.pages(1)
            pages.bytes[:] = OLD
            for number in range(waiting):
                ring.requests.append(guest.request(WRITE, 800 + 8 * number, pages.segments(8 if unit == 512 else 1)))
                guest.submit(ring.requests[-1])
            until(lambda: disk.seen("write") >= answered + waiting)
            ring.hand_over()
            disk.clear(full)
            make_version_1(file.fileno())
            return ring

        yield make


@ABIS
@pytest.mark.parametrize("answered", [0, 1, 40])
def test_the_ring_of_a_worker_of_0_1_is_adopted_and_its_journal_gets_a_nonce(left, abi, order, answered) -> None:
    ring = left(answered, waiting=3, abi=abi, order=order)
    guest = ring.served.guest
    assert ring.adopt().anew == []
    assert guest.finish(*ring.requests) == [OKAY] * 3 and guest.read(816, 8) == OLD
    assert version_of(ring.journals[0])[0] == 2 and shared(guest, NONCE) != bytes(16)
    ring.replace()
    assert guest.flush() == OKAY


def test_a_ring_on_which_nothing_ever_happened_is_adopted(left) -> None:
    ring = left()
    assert ring.adopt().anew == [] and ring.served.guest.flush() == OKAY


def test_requests_in_another_unit_stand_in_the_ring_as_the_guest_wrote_them(left) -> None:
    ring = left(waiting=1, unit=4096)
    assert ring.adopt().anew == [] and ring.served.guest.finish(*ring.requests) == [OKAY]


def test_an_adoption_that_was_killed_before_it_had_written_the_version_is_done_again(left) -> None:
    ring = left(answered=2, waiting=1)
    ring.adopt()
    ring.served.guest.finish(*ring.requests)
    ring.hand_over()
    make_version_1(*ring.journals)
    assert ring.adopt().anew == [] and ring.served.guest.flush() == OKAY


@pytest.mark.parametrize("behind", [1, 5])
def test_a_batch_that_was_being_published_is_published(left, behind) -> None:
    ring = left(answered=6)
    set_shared(ring.served.guest, RSP_PROD, 6 - behind)
    ring.adopt()
    assert shared(ring.served.guest, RSP_PROD) == struct.pack("<I", 6) and ring.served.guest.flush() == OKAY


# Rings begun anew with the same numbers

@ABIS
@pytest.mark.parametrize("answered", [0, 5, 200])
def test_a_ring_begun_anew_that_nothing_was_asked_of_yet_is_no_longer_the_journals(left, abi, order, answered) -> None:
    ring = left(answered, waiting=2, abi=abi, order=order)
    begin_anew(ring.served.guest)
    assert ring.adopt().anew == [0]
    assert shared(ring.served.guest, RSP_PROD) == bytes(4) and ring.served.guest.read(800, 8) == bytes(4096)


@pytest.mark.parametrize("answered", [0, 200])
def test_other_requests_than_the_journal_has_are_of_another_ring(left, answered) -> None:
    ring = left(answered, waiting=2)
    guest = ring.served.guest
    begin_anew(guest)
    requests = [guest.request(READ, 8 * i, guest.pages(1).segments()) for i in range(4)]
    guest.submit(*requests)
    assert ring.adopt().anew == [0] and guest.finish(*requests) == [OKAY] * 4
    assert guest.read(800, 8) == bytes(4096)


def test_a_ring_that_asks_for_the_very_same_is_as_good(left) -> None:
    ring = left(waiting=2)
    guest = ring.served.guest
    begin_anew(guest)
    guest.submit(*ring.requests)
    ring.adopt()
    assert guest.finish(*ring.requests) == [OKAY] * 2


# Where nothing is proven

def held(ring, match=HELD):
    """It is refused, and nothing of ring and journal is changed."""
    guest, fd = ring.served.guest, ring.journals[0]
    before = bytes(memoryview(guest.ring_pages))
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        journal = file.read()
    with pytest.raises(ProtocolError, match=match):
        ring.adopt()
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        assert file.read() == journal
    assert bytes(memoryview(guest.ring_pages)) == before


def test_after_a_short_life_a_ring_at_0_may_be_the_same_with_its_first_batch_unpublished(left) -> None:
    ring = left(answered=5, waiting=2)
    set_shared(ring.served.guest, RSP_PROD, 0)
    held(ring)


def test_the_first_request_may_be_overwritten_by_the_first_response(left) -> None:
    ring = left(waiting=1)
    memoryview(ring.served.guest.ring_pages)[64:80] = bytes(16)
    held(ring)


def test_what_is_held_says_what_to_do_and_goes_on_when_that_is_undone(left) -> None:
    ring = left(answered=5)
    set_shared(ring.served.guest, RSP_PROD, 0)
    held(ring, r"its journal is of xenvbd 0\.1: .* xl save and xl restore.* or detach the disk")
    set_shared(ring.served.guest, RSP_PROD, 5)
    assert ring.adopt().anew == []


@pytest.mark.parametrize("where, value", [(RSP_PROD, 77), (RSP_PROD, 41), (REQ_PROD, 39), (REQ_PROD, 0)])
def test_indices_that_neither_ring_could_have_are_the_guests_work(left, where, value) -> None:
    ring = left(answered=40)
    set_shared(ring.served.guest, where, value)
    held(ring, "changed the indices of its ring")

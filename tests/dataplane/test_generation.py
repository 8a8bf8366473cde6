"""A journal is of one generation of a ring: a ring that was begun anew in the same place is another.  Adoption itself:
test_adopt.py; the journals of xenvbd 0.1: test_version_1.py."""
import contextlib
import errno
import struct
import tempfile

import pytest

from tests.support.guest import FLUSH, OKAY, WRITE, Agreement
from tests.support.succession import NONCE, REQ_PROD, RSP_PROD, Succession, begin_anew, set_shared, shared
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.errors import ProtocolError

OLD, NEW = bytes([1]) * 4096, bytes([2]) * 4096
RINGS = pytest.mark.parametrize("abi, order, queues", [
    ("native", 0, 1), ("x86_32-abi", 0, 1), ("x86_64-abi", 0, 1), ("x86_64-abi", 4, 1), ("x86_32-abi", 2, 3)])


@pytest.fixture
def files():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(tempfile.TemporaryFile(dir="/dev/shm")).fileno() for _ in range(3)]


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(MemoryDisk("mem:4M", 4 << 20))


@pytest.fixture
def rings(serve, guests, machine, disk, files):
    """rings(queues=, **guest's): a plane that serves one disk of so many rings; .guests has their ends."""
    def make(queues=1, **options) -> Succession:
        made = [guests(**options)]
        made += [type(made[0])(machine, made[0].domid, **options) for _ in range(queues - 1)]
        agreement = Agreement(made[0].domid, 51712, made[0].abi, tuple(g.agreement.queues[0] for g in made))
        served = serve(made[0], disk=disk, journal=files[:queues], agreement=agreement)
        served.cleanup += [guest.close for guest in made[1:]]
        ring = Succession(served, machine, files[:queues], agreement)
        ring.guests = made
        return ring

    return make


def leave_a_write(ring, disk, guest, sector: int = 800):
    """A write that the disk has no room for, in the journal of the plane that is gone; its pages."""
    full = disk.fail("write", errno.ENOSPC)
    pages = guest.pages(1)
    pages.bytes[:] = OLD
    guest.submit(guest.request(WRITE, sector, pages.segments()))
    ring.served.expect("no-space")
    ring.hand_over()
    disk.clear(full)
    return pages


@RINGS
def test_a_connection_has_a_nonce_in_ring_and_journal_and_the_next_has_another(rings, abi, order, queues) -> None:
    ring = rings(queues, abi=abi, order=order)
    nonces = [shared(guest, NONCE) for guest in ring.guests]
    assert len({*nonces, bytes(16)}) == queues + 1
    for guest, nonce, fd in zip(ring.guests, nonces, ring.journals, strict=True):
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            assert file.read(224)[208:] == nonce
        assert guest.write(0, OLD) == OKAY
    ring.replace()
    assert [shared(guest, NONCE) for guest in ring.guests] == nonces, "who adopts goes on with it"


@RINGS
@pytest.mark.parametrize("before", [0, 3])
def test_a_ring_begun_anew_with_the_same_numbers_is_served_from_its_beginning(rings, disk, abi, order, queues,
                                                                              before) -> None:
    ring = rings(queues, abi=abi, order=order)
    for guest in ring.guests:
        assert [guest.write(8 * i, OLD) for i in range(before)] == [OKAY] * before
    pages = leave_a_write(ring, disk, ring.guests[-1])
    for guest in ring.guests:
        begin_anew(guest)
    pages.bytes[:] = NEW
    assert ring.adopt().anew == list(range(queues))
    for number, guest in enumerate(ring.guests):
        assert shared(guest, RSP_PROD) == bytes(4)
        assert guest.write(80 + 8 * number, OLD) == OKAY and guest.read(80 + 8 * number, 8) == OLD
        assert guest.read(800, 8) == bytes(4096), "the write of the earlier ring was done again"


def test_what_was_posted_on_a_ring_begun_anew_is_served_as_after_any_connect(rings, disk) -> None:
    ring = rings()
    guest = ring.served.guest
    leave_a_write(ring, disk, guest)
    begin_anew(guest)
    request = guest.request(WRITE, 8, guest.pages(1).segments())
    guest.submit(request)
    assert ring.adopt().anew == [0]
    assert guest.finish(request) == [OKAY] and guest.read(800, 8) == bytes(4096)


def test_a_ring_begun_anew_is_adopted_as_what_it_is_by_the_one_after(rings, disk) -> None:
    ring = rings()
    leave_a_write(ring, disk, ring.served.guest)
    begin_anew(ring.served.guest)
    ring.adopt()
    pages = leave_a_write(ring, disk, ring.served.guest)
    assert ring.adopt().anew == [] and pages.bytes == OLD
    assert ring.served.guest.flush() == OKAY and ring.served.guest.read(800, 8) == OLD


def test_a_frontend_that_clears_no_more_than_the_beginning_of_the_padding_has_cleared_the_nonce(rings) -> None:
    ring = rings()
    ring.hand_over()
    memoryview(ring.served.guest.ring_pages)[16:24] = bytes(8)
    assert ring.adopt().anew == [0]


@pytest.mark.parametrize("queues", [1, 2])
def test_a_guest_that_scribbles_over_the_nonce_loses_its_own_adoption_only(rings, disk, queues) -> None:
    ring = rings(queues)
    guest = ring.served.guest
    assert [each.write(0, OLD) for each in ring.guests] == [OKAY] * queues
    ring.hand_over()
    memoryview(guest.ring_pages)[NONCE] = b"scribbled on it!"
    assert ring.adopt().anew == [0]
    assert shared(guest, RSP_PROD) == struct.pack("<I", 1)
    assert [each.write(8, OLD) for each in ring.guests] == [OKAY] * queues


@pytest.mark.parametrize("index", [0, (1 << 32) - 1])
def test_rsp_prod_may_be_what_it_was_before_the_batch_that_was_being_published(rings, index) -> None:
    """The journal says so first: a worker killed between the two stores leaves the ring behind."""
    ring = rings(index=index)
    guest = ring.served.guest
    assert guest.write(0, OLD) == OKAY
    ring.hand_over()
    set_shared(guest, RSP_PROD, index)
    ring.adopt()
    assert shared(guest, RSP_PROD) == struct.pack("<I", (index + 1) % (1 << 32)) and guest.write(8, OLD) == OKAY


@pytest.mark.parametrize("where, value", [(RSP_PROD, 77), (RSP_PROD, 0), (RSP_PROD, 3), (REQ_PROD, 1),
                                          (REQ_PROD, 0)])
def test_a_guest_that_changes_indices_that_it_cannot_have_changed_is_not_adopted(rings, where, value) -> None:
    ring = rings()
    guest = ring.served.guest
    assert guest.write(0, OLD) == guest.write(8, OLD) == OKAY
    ring.hand_over()
    set_shared(guest, where, value)
    with pytest.raises(ProtocolError, match="changed the indices of its ring"):
        ring.adopt()
    assert shared(guest, where) == struct.pack("<I", value), "it is written to"
    set_shared(guest, where, 2)
    ring.adopt()
    assert guest.flush() == OKAY, "the journal was kept as it was"


def test_a_failed_flush_is_not_forgotten_with_the_ring_that_it_was_asked_for_on(rings, disk) -> None:
    ring = rings(2)
    disk.fail("flush", errno.EIO, count=1)
    ring.served.guest.submit(ring.served.guest.request(FLUSH))
    ring.served.expect("flush-failed")
    ring.hand_over()
    for guest in ring.guests:
        begin_anew(guest)
    for _ in range(2):
        with pytest.raises(ProtocolError, match="a flush of the disk failed"):
            ring.adopt()

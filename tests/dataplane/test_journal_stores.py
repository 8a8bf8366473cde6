"""The journal while a ring is served: what a later worker would find if this one were killed now."""
import os
import struct
import tempfile

import pytest

from tests.support.guest import OKAY, READ, WRITE, Guest, until
from tests.support.succession import SINCE_2
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.journal import Identity, Journal


@pytest.fixture
def file():
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        yield file.fileno()


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(MemoryDisk("mem:4M", 4 << 20))


def found(guest: Guest, file: int) -> Journal:
    ring = guest.agreement.queues[0]
    identity = Identity(guest.domid, 51712, 0, ring.event_channel, 0, ring.ring_refs)
    return Journal.open(file, identity, guest.ring.entries)


def reads(guest, count: int) -> list:
    segments = guest.pages(1).segments()
    return [guest.request(READ, 8 * i, segments) for i in range(count)]


def test_what_was_consumed_and_not_answered_is_there_as_the_guest_wrote_it(serve, disk, file) -> None:
    guest = serve(disk=disk, journal=file).guest
    assert guest.do(*reads(guest, 3)) == [OKAY] * 3
    rule = disk.hold("any")
    requests = [*reads(guest, 5), guest.indirect(WRITE, 80, guest.pages(12).segments())]
    guest.submit(*requests)
    disk.wait_held(6)
    journal = found(guest, file)
    assert [(p.idx, p.request.id, p.answered) for p in journal.pending()] == [
        (3 + i, request.id, False) for i, request in enumerate(requests)]
    assert [p.request.sector for p in journal.pending()] == [r.sector for r in requests]
    assert journal.pending()[5].request.grefs == requests[5].grefs
    assert (journal.req_cons, journal.rsp_prod, journal.failed) == (9, 3, False)
    disk.clear(rule)
    guest.finish(*requests)


def test_an_answered_request_is_gone_from_it(serve, disk, file) -> None:
    guest = serve(disk=disk, journal=file).guest
    for _ in range(40):
        assert guest.do(*reads(guest, 7)) == [OKAY] * 7
    until(lambda: found(guest, file).pending() == [])
    assert (found(guest, file).req_cons, found(guest, file).rsp_prod) == (280, 280)


def test_indices_in_it_wrap_with_the_rings(serve, guests, disk, file) -> None:
    guest = serve(guests(index=(1 << 32) - 2), disk=disk, journal=file).guest
    disk.hold("any")
    requests = reads(guest, 4)
    guest.submit(*requests)
    disk.wait_held(4)
    journal = found(guest, file)
    assert [p.idx for p in journal.pending()] == [(1 << 32) - 2, (1 << 32) - 1, 0, 1]
    assert (journal.req_cons, journal.rsp_prod) == (2, (1 << 32) - 2)
    disk.clear()
    guest.finish(*requests)


def test_a_quarantined_ring_keeps_what_it_never_answered(serve, disk, file) -> None:
    served = serve(disk=disk, journal=file)
    guest = served.guest
    rule = disk.hold("any")
    guest.submit(*reads(guest, 2))
    disk.wait_held(2)
    memoryview(guest.ring_pages)[0:4] = (500).to_bytes(4, "little")
    guest.evtchn.notify(guest.port)
    served.expect("quarantined")
    disk.clear(rule)
    assert guest.quiet(0.1)
    assert len(found(guest, file).pending()) == 2


def test_it_has_the_rsp_prod_that_was_published_before_the_last_batch(serve, disk, file) -> None:
    guest = serve(disk=disk, journal=file).guest
    for count in range(1, 5):
        assert guest.do(*reads(guest, 1)) == [OKAY]
        assert struct.unpack_from("=I", os.pread(file, 4, SINCE_2)) == (count - 1,)

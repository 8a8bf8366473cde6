"""Going on with another plane's ring and journal: what is begun again, and what is not.  Kills: tests/crash."""
import errno
import tempfile

import pytest

from tests.support.guest import FLUSH, OKAY, READ, WRITE
from tests.support.succession import Succession
from xenvbd.dataplane import DataPlane
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.errors import Error, ProtocolError
from xenvbd.hv.evtchn import EventChannels


@pytest.fixture
def file():
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        yield file.fileno()


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(MemoryDisk("mem:4M", 4 << 20))


@pytest.fixture
def succession(serve, guests, machine, disk, file):
    return lambda rerror="report", **options: Succession(
        serve(guests(**options), disk=disk, journal=file, rerror=rerror), machine, file)


@pytest.mark.parametrize("index", [0, (1 << 32) - 3])
@pytest.mark.parametrize("abi", ["native", "x86_32-abi"])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_ring_goes_from_plane_to_plane_and_data_with_it(succession, persistent, abi, index) -> None:
    ring = succession(persistent=persistent, abi=abi, index=index)
    guest = ring.served.guest
    for turn in range(6):
        assert guest.write(8 * turn, b"%04096d" % turn) == OKAY
        ring.replace()
        assert guest.read(8 * turn, 8) == b"%04096d" % turn
        assert guest.flush() == OKAY


def test_what_the_guest_asked_for_while_nobody_listened_is_served(succession) -> None:
    ring = succession()
    guest = ring.served.guest
    ring.hand_over()
    request = guest.request(WRITE, 0, guest.pages(1).segments(8))
    guest.submit(request)
    ring.adopt()
    assert guest.finish(request) == [OKAY]


def test_a_write_that_there_was_no_room_for_is_handed_over_and_done_when_there_is(succession, disk) -> None:
    ring = succession()
    guest = ring.served.guest
    full = disk.fail("write", errno.ENOSPC)
    requests = [guest.request(WRITE, 8 * i, guest.pages(1).segments(8)) for i in range(5)]
    guest.submit(*requests)
    ring.served.expect("no-space")
    for _ in range(3):
        ring.replace()
        assert guest.quiet(0.1)
        ring.served.expect("no-space")
    disk.clear(full)
    ring.served.plane.resume()
    assert guest.finish(*requests) == [OKAY] * 5
    ring.served.expect("resumed")


def test_a_read_that_is_kept_is_handed_over_and_judged_by_the_next(succession, disk) -> None:
    ring = succession(rerror="stop")
    guest = ring.served.guest
    disk.fail("read", errno.EIO, count=1)
    pages = guest.pages(1)
    read = guest.request(READ, 8, pages.segments())
    guest.submit(read)
    ring.served.expect("io-stop")
    ring.replace()
    assert guest.finish(read) == [OKAY]


def test_what_stands_behind_requests_that_wait_is_handed_over_too(succession, disk) -> None:
    ring = succession()
    guest = ring.served.guest
    full = disk.fail("write", errno.ENOSPC)
    write = guest.request(WRITE, 0, guest.pages(1).segments(8))
    guest.submit(write)
    ring.served.expect("no-space")
    others = [guest.request(READ, 8, guest.pages(1).segments(8)), guest.request(FLUSH)]
    assert guest.do(*others) == [OKAY] * 2
    ring.replace()
    disk.clear(full)
    assert guest.finish(write) == [OKAY]


def test_a_failed_flush_is_never_answered_whoever_serves(succession, disk) -> None:
    ring = succession()
    guest = ring.served.guest
    disk.fail("flush", errno.EIO, count=1)
    flush = guest.request(FLUSH)
    guest.submit(flush)
    ring.served.expect("flush-failed")
    for _ in range(3):
        ring.replace()
        ring.served.expect("flush-failed")
        guest.submit(guest.request(WRITE, 0, guest.pages(1).segments(8)))
        assert guest.quiet(0.1)
    assert disk.seen("flush") == 1, "it was tried again, and could have succeeded"


def test_a_guest_that_overran_its_ring_meanwhile_is_quarantined(succession) -> None:
    ring = succession()
    ring.hand_over()
    memoryview(ring.served.guest.ring_pages)[0:4] = (500).to_bytes(4, "little")
    ring.adopt()
    ring.served.expect("quarantined")


def test_a_ring_is_not_adopted_with_another_rings_journal(succession, serve) -> None:
    ring = succession()
    other = serve().guest
    ring.hand_over()
    plane = DataPlane(ring.machine.join(0), ring.served.disk)
    with pytest.raises(ProtocolError, match="differs"):
        plane.start(other.agreement, ring.journals, adopt=True)
    with pytest.raises(Error, match="without journals"):
        plane.start(other.agreement, adopt=True)
    plane.destroy()


def test_a_port_that_is_given_back_late_is_waited_for(succession, machine) -> None:
    """The kernel lets go of a killed process's event channel when its io_uring has let go of the file."""
    ring = succession()
    guest = ring.served.guest
    ring.hand_over()
    machine.inject("bind", after=0, status=-errno.EINVAL, count=3)
    ring.adopt()
    assert machine.fault_hits == 3 and guest.flush() == OKAY


def test_a_plane_that_died_before_it_had_a_journal_left_a_fresh_ring(serve, guests, machine, disk, file) -> None:
    guest = guests(index=7)
    plane = DataPlane(machine.join(0), disk)
    plane.start(guest.agreement, [file], adopt=True)
    assert guest.flush() == OKAY
    plane.destroy()


def test_the_frontend_is_told_once(succession) -> None:
    ring = succession()
    guest = ring.served.guest
    assert guest.flush() == OKAY
    guest.ring.final_check()
    while guest.evtchn.pending() is not None:
        guest.evtchn.unmask(guest.port)
    before = guest.events
    ring.replace()
    guest.wait()
    assert guest.events == before + 1 and isinstance(guest.evtchn, EventChannels)

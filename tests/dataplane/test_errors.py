"""What broken storage does to a guest: one error for one failed request; waiting for room; a failed flush is final."""
import errno
import os
import tempfile

import pytest

from tests.support.guest import BARRIER, DISCARD, EOPNOTSUPP, ERROR, FLUSH, OKAY, PAGE, READ, WRITE, until
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.journal import Identity, Journal
from xenvbd.stats import Snapshot

SIZE = 4 << 20


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(MemoryDisk("mem:4M", SIZE))


@pytest.fixture
def journal():
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        yield file.fileno()


@pytest.fixture
def served(serve, disk, journal):
    return serve(disk=disk, barrier=True, journal=journal)


def counters(served) -> dict[str, int]:
    return Snapshot.from_bytes(served.plane.statistics()[0]).counters


def opened(served, journal: int) -> Journal:
    """The journal, as a later worker would open it."""
    ring = served.guest.agreement.queues[0]
    identity = Identity(served.guest.domid, 51712, 0, ring.event_channel, 0, ring.ring_refs)
    return Journal.open(journal, identity, served.guest.ring.entries)


def data(guest, operation: int, sector: int = 0):
    pages = guest.pages(1)
    pages.bytes[:] = os.urandom(PAGE)
    return guest.request(operation, sector, pages.segments())


@pytest.mark.parametrize(("operation", "op"), [(READ, "read"), (WRITE, "write"), (FLUSH, "write"),
                                               (BARRIER, "write")])
def test_an_io_error_is_that_requests_own(served, disk, operation: int, op: str) -> None:
    disk.fail(op, errno.EIO, count=1)
    assert served.guest.do(data(served.guest, operation, 8)) == [ERROR]
    event = served.expect("io-error")
    assert (event.queue, event.errno, event.detail) == (0, errno.EIO, 8)
    assert served.guest.do(data(served.guest, operation, 8)) == [OKAY]


def test_a_discard_that_the_disk_cannot_do_is_not_supported(served, disk) -> None:
    disk.fail("discard", errno.EOPNOTSUPP, count=1)
    disk.fail("discard", errno.EIO, count=1)
    guest = served.guest
    assert guest.do(guest.request(DISCARD, 0, nr_sectors=8)) == [EOPNOTSUPP]
    assert guest.do(guest.request(DISCARD, 0, nr_sectors=8)) == [ERROR]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_without_room_waits_until_there_is_some(served, disk, error: int) -> None:
    guest = served.guest
    disk.fail("write", error)
    write = data(guest, WRITE, 8)
    guest.submit(write)
    assert served.expect("no-space").errno == error
    assert counters(served)["stopped"] == 1
    assert guest.do(data(guest, READ)) == [OKAY], "reads go on"
    disk.clear()
    assert guest.quiet(0.1)
    served.plane.resume()
    assert guest.finish(write) == [OKAY]
    served.expect("resumed")
    assert counters(served)["stopped"] == 0


def test_room_is_looked_for_each_second_without_being_told(served, disk) -> None:
    disk.fail("write", errno.ENOSPC, count=1)
    assert served.guest.do(data(served.guest, WRITE), timeout=5) == [OKAY]
    assert [served.expect(kind).kind for kind in ("no-space", "resumed")] == ["no-space", "resumed"]


def test_many_writes_without_room_are_one_event(served, disk) -> None:
    guest = served.guest
    rule = disk.fail("write", errno.ENOSPC)
    writes = [data(guest, WRITE, 8 * i) for i in range(20)] + [data(guest, FLUSH, 800)]
    guest.submit(*writes)
    served.expect("no-space")
    served.plane.resume()
    assert guest.quiet(0.2)
    disk.clear(rule)
    served.plane.resume()
    assert set(guest.finish(*writes)) == {OKAY}
    served.expect("resumed")
    assert [e for e in served.events + served.plane.events() if e.kind == "no-space"] == []


def test_a_write_without_room_is_an_error_when_the_disk_is_detached(served, disk) -> None:
    guest = served.guest
    disk.fail("write", errno.ENOSPC)
    write = data(guest, WRITE)
    guest.submit(write)
    served.expect("no-space")
    assert served.plane.stop(timeout=5)
    assert guest.finish(write) == [ERROR]


@pytest.mark.parametrize(("operation", "op", "policy"), [(READ, "read", "rerror"), (WRITE, "write", "werror"),
                                                         (FLUSH, "write", "werror"), (BARRIER, "write", "werror")])
def test_what_fails_may_be_kept_until_it_is_to_be_tried_again(serve, disk, operation: int, op: str,
                                                              policy: str) -> None:
    served = serve(disk=disk, barrier=True, **{policy: "stop"})
    guest = served.guest
    rule = disk.fail(op, errno.EIO)
    kept = data(guest, operation, 8)
    guest.submit(kept)
    event = served.expect("io-stop")
    assert (event.errno, event.detail) == (errno.EIO, 8)
    assert counters(served)["stopped"] == 3
    served.plane.resume()
    until(lambda: disk.hits(rule) == 2)
    assert guest.quiet(0.1)
    disk.clear()
    served.plane.resume()
    assert guest.finish(kept) == [OKAY]
    served.expect("resumed")
    assert counters(served)["stopped"] == 0 and not served.events


def test_what_a_kept_read_has_read_at_last_is_what_the_disk_holds(serve, disk) -> None:
    served = serve(disk=disk, rerror="stop")
    guest, content = served.guest, os.urandom(PAGE)
    assert guest.write(8, content) == OKAY
    disk.fail("read", errno.EIO, count=1)
    pages = guest.pages(1)
    read = guest.request(READ, 8, pages.segments())
    guest.submit(read)
    served.expect("io-stop")
    served.plane.resume()
    assert guest.finish(read) == [OKAY] and bytes(pages.bytes) == content


def test_want_of_room_is_looked_at_each_second_and_other_errors_are_not(serve, disk) -> None:
    served = serve(disk=disk, werror="stop")
    guest = served.guest
    room = disk.fail("write", errno.ENOSPC, count=1)
    disk.fail("write", errno.EIO, count=1)
    first, second = data(guest, WRITE), data(guest, WRITE, 8)
    guest.submit(first, second)
    assert guest.finish(first, timeout=5) == [OKAY] and disk.hits(room) == 1
    served.expect("no-space"), served.expect("io-stop")
    assert counters(served)["stopped"] == 3
    assert guest.quiet(1.2)
    served.plane.resume()
    assert guest.finish(second) == [OKAY]
    served.expect("resumed")


def test_a_write_without_room_is_an_error_if_that_is_the_policy(serve, disk) -> None:
    served = serve(disk=disk, werror="report")
    disk.fail("write", errno.ENOSPC, count=1)
    assert served.guest.do(data(served.guest, WRITE)) == [ERROR]
    assert served.expect("io-error").errno == errno.ENOSPC


def test_what_is_kept_may_fail_in_another_way_when_it_is_tried_again(serve, disk) -> None:
    served = serve(disk=disk, werror="stop")
    disk.fail("write", errno.EIO, count=1)
    disk.fail("write", errno.ENOSPC, count=1)
    write = data(served.guest, WRITE)
    served.guest.submit(write)
    served.expect("io-stop")
    served.plane.resume()
    served.expect("no-space")
    assert served.guest.finish(write, timeout=5) == [OKAY]
    served.expect("resumed")
    assert counters(served)["stopped"] == 0


def test_what_is_kept_is_an_error_when_the_disk_is_detached(serve, disk) -> None:
    served = serve(disk=disk, rerror="stop")
    disk.fail("read", errno.EIO)
    read = data(served.guest, READ)
    served.guest.submit(read)
    served.expect("io-stop")
    assert served.plane.stop(timeout=5)
    assert served.guest.finish(read) == [ERROR]


def test_a_failed_flush_is_never_answered_nor_anything_after_it(served, disk, journal) -> None:
    """Linux takes an error for success and stops flushing: there is no answer that would be safe."""
    guest = served.guest
    disk.fail("flush", errno.EIO, count=1)
    flush = guest.request(FLUSH, id=77)
    guest.submit(flush)
    assert served.expect("flush-failed").errno == errno.EIO
    later = [data(guest, operation) for operation in (READ, WRITE, FLUSH)]
    guest.submit(*later)
    assert guest.quiet(0.3)
    assert counters(served)["stopped"] == 2
    kept = opened(served, journal)
    assert kept.failed
    assert [(p.request.id, p.answered) for p in kept.pending()] == [(77, False)]
    served.plane.resume()
    assert guest.quiet(0.2)
    assert served.plane.stop(timeout=5)
    assert guest.quiet(0.1)


def test_what_runs_while_a_flush_fails_is_not_answered_either(served, disk) -> None:
    guest = served.guest
    disk.hold("read", count=1)
    disk.fail("flush", errno.EIO)
    read = data(guest, READ)
    guest.submit(read, guest.request(FLUSH))
    served.expect("flush-failed")
    disk.clear()
    assert guest.quiet(0.2)
    assert counters(served)["inflight"] >= 1


@pytest.mark.parametrize("stage", [0, 1])
def test_a_barriers_failed_flush_is_final_too(served, disk, stage: int) -> None:
    guest = served.guest
    disk.fail("flush", errno.EIO, after=stage)
    guest.submit(data(guest, BARRIER))
    served.expect("flush-failed")
    assert guest.quiet(0.2)


def test_events_that_nobody_takes_are_dropped_and_counted(served, disk) -> None:
    guest = served.guest
    disk.fail("read", errno.EIO)
    for _ in range(10):
        guest.do(*(data(guest, READ) for _ in range(20)))
    events = served.plane.events()
    assert len(events) == 63
    assert served.plane.lost == 200 - 63
    assert guest.do(data(guest, WRITE)) == [OKAY]

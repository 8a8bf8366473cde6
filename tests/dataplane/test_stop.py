"""Starting and stopping: everything answered before the ring goes, everything given back, nothing waited for."""
import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.guest import BARRIER, DISCARD, FLUSH, OKAY, PAGE, READ, WRITE, Agreement, Ring, until
from xenvbd.dataplane import DataPlane
from xenvbd.dataplane.iothread import ALIVE
from xenvbd.disk.faults import FaultDisk
from xenvbd.disk.memory import MemoryDisk
from xenvbd.errors import Error, HypervisorError, ProtocolError
from xenvbd.hv.grant import GrantTable

SIZE = 4 << 20


@pytest.fixture
def disk() -> FaultDisk:
    return FaultDisk(MemoryDisk("mem:4M", SIZE))


def reads(guest, count: int) -> list:
    return [guest.request(READ, 0, guest.pages(1).segments()) for _ in range(count)]


def test_stop_answers_what_was_consumed_and_lets_go_of_the_ring(serve, machine, disk) -> None:
    served = serve(disk=disk)
    guest = served.guest
    disk.hold("any")
    requests = [*reads(guest, 8), guest.request(FLUSH), guest.request(DISCARD, 0, nr_sectors=8)]
    guest.submit(*requests)
    disk.wait_held(10)
    served.plane.stop_begin()
    assert served.plane.state == "stopping"
    assert not served.plane.stop(timeout=0.1)
    disk.clear()
    served.expect("stopped")
    assert served.plane.state == "stopped"
    assert set(guest.finish(*requests)) == {OKAY}
    assert machine.mappings(guest.domid) == []
    assert [port.state for port in machine.ports(guest.domid)] == ["unbound"]


def posted(guest, *requests) -> list:
    """Requests on the ring that nobody is notified of."""
    guest.put(*requests)
    guest.ring.push()
    return list(requests)


@pytest.mark.parametrize("order", [0, 4])
def test_what_was_posted_and_not_notified_when_it_stops_is_answered(serve, guests, order: int) -> None:
    for _ in range(20):
        served = serve(guests(order=order))
        requests = posted(served.guest, *reads(served.guest, 32 << order))
        assert served.plane.stop(timeout=10)
        assert set(served.guest.finish(*requests)) == {OKAY}


def test_barriers_and_flushes_that_were_posted_when_it_stops_are_answered(serve, disk) -> None:
    served = serve(disk=disk, barrier=True)
    guest = served.guest
    kinds = (BARRIER, FLUSH, WRITE, DISCARD, BARRIER, WRITE)
    requests = posted(guest, *(guest.request(kind, 0, guest.pages(1).segments(), nr_sectors=8) for kind in kinds))
    assert served.plane.stop(timeout=10)
    assert guest.finish(*requests) == [OKAY] * len(kinds)


def test_of_what_was_posted_nothing_is_answered_to_a_frontend_that_is_gone(serve) -> None:
    served = serve()
    posted(served.guest, *reads(served.guest, 8))
    served.plane.stop_begin(abandon=True)
    assert served.plane.stop(timeout=10)
    assert not served.guest.ring.pending()


def test_what_was_not_consumed_is_left_in_the_ring_for_the_next_start(serve, disk) -> None:
    served = serve(disk=disk)
    guest = served.guest
    assert set(guest.do(*reads(guest, 8))) == {OKAY}
    assert served.plane.stop(timeout=5)
    more = reads(guest, 8)
    guest.submit(*more)
    served.plane.start(guest.agreement)
    assert set(guest.finish(*more)) == {OKAY}


def test_a_frontend_that_is_gone_is_let_go_at_once_and_gets_no_answer(serve, machine, disk) -> None:
    served = serve(disk=disk)
    guest = served.guest
    rule = disk.hold("any")
    requests = reads(guest, 8)
    guest.submit(*requests)
    disk.wait_held(8)
    ring = bytes(memoryview(guest.ring_pages))
    served.plane.stop_begin(abandon=True)
    until(lambda: machine.mappings(guest.domid) == [])
    assert served.plane.state == "stopping", "the buffers are still the disk's"
    disk.clear(rule)
    served.expect("stopped")
    assert bytes(memoryview(guest.ring_pages)) == ring


def test_a_stop_that_takes_too_long_can_be_hardened(serve, machine, disk) -> None:
    served = serve(disk=disk)
    rule = disk.hold("any")
    served.guest.submit(*reads(served.guest, 2))
    disk.wait_held(2)
    served.plane.stop_begin()
    served.plane.stop_begin(abandon=True)
    until(lambda: machine.mappings(served.guest.domid) == [])
    disk.clear(rule)
    served.expect("stopped")


def test_stop_works_under_full_load(serve) -> None:
    served = serve()
    guest = served.guest
    pages = guest.pages(1)

    def load() -> None:
        while served.plane.state == "running":
            guest.submit(*(guest.request(WRITE, 0, pages.segments()) for _ in range(guest.ring.free())))
            guest.take()

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(0.1)
    assert served.plane.stop(timeout=5)
    thread.join()


def test_stopping_and_destroying_twice_does_nothing(serve) -> None:
    plane = serve().plane
    for _ in range(2):
        assert plane.stop(timeout=5)
    for _ in range(2):
        plane.destroy()
    assert plane.state == "destroyed"
    assert plane.events() == []


def test_a_running_plane_is_not_started_again(serve) -> None:
    served = serve()
    with pytest.raises(Error, match="is running"):
        served.plane.start(served.guest.agreement)


def resources() -> tuple[int, int, int]:
    """Descriptors, mappings that are not the allocator's, threads."""
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm" in line]
    return len(os.listdir("/proc/self/fd")), len(maps), len(ALIVE)


def opens_guest_memory(hypervisor, guest) -> None:
    """The simulated machine keeps a domain's memory mapped from the first use on."""
    with GrantTable(hypervisor) as grants:
        grants.read(guest.domid, guest.ring_pages.refs[0])


@pytest.mark.parametrize("bad", ["ring-ref", "second ring-ref", "event-channel", "entries", "engine"])
def test_a_start_that_fails_leaves_nothing_behind(machine, guests, disk, bad: str) -> None:
    guest = guests(order=1)
    refs, port = guest.ring_pages.refs, guest.port
    if bad == "ring-ref":
        refs = (9999,)
    elif bad == "second ring-ref":
        refs = (refs[0], 9999)
    elif bad == "event-channel":
        port = 9999
    elif bad == "entries":
        memoryview(guest.ring_pages)[0:4] = (65).to_bytes(4, "little")
    elif bad == "engine":
        disk = type("Broken", (MemoryDisk,), {"queue": lambda self, depth: 1 / 0})("mem:4M", SIZE)
    hypervisor = machine.join(0)
    opens_guest_memory(hypervisor, guest)
    plane = DataPlane(hypervisor, disk)
    agreement = Agreement(guest.domid, 51712, "native", (Ring(refs, port),))
    before = resources()
    for _ in range(3):
        with pytest.raises((HypervisorError, ProtocolError, ZeroDivisionError, TypeError)):
            plane.start(agreement)
        assert (plane.state, resources()) == ("stopped", before)
    assert machine.mappings(guest.domid) == []
    plane.destroy()


@pytest.mark.parametrize("op", ["open", "map", "bind"])
def test_whichever_call_of_the_hypervisor_fails_a_start_undoes_the_rest(machine, guests, disk, op: str) -> None:
    """The nth call fails, for each n until none is left to fail: then the start succeeds."""
    guest, hypervisor = guests(order=2), machine.join(0)
    opens_guest_memory(hypervisor, guest)
    plane = DataPlane(hypervisor, disk)
    before, failures = resources(), 0
    while True:
        machine.inject(op, failures, -12, domid=0)
        try:
            plane.start(guest.agreement)
            break
        except HypervisorError as error:
            assert error.errno == 12
        assert (plane.state, resources(), machine.mappings(guest.domid)) == ("stopped", before, [])
        failures += 1
    machine.clear_faults()
    assert failures >= 1
    plane.destroy()


def test_a_thousand_starts_leave_no_descriptor_mapping_or_thread(serve, machine) -> None:
    served = serve()
    guest = served.guest
    request = reads(guest, 1)[0]
    assert guest.do(request) == [OKAY]
    assert served.plane.stop(timeout=5)
    before = resources()
    for i in range(1000):
        served.plane.start(guest.agreement)
        if i % 10 == 0:
            assert guest.do(request._replace(id=10 + i)) == [OKAY]
        assert served.plane.stop(timeout=5)
    assert resources() == before
    assert machine.mappings(guest.domid) == []


def test_two_queues_of_a_disk_share_it(machine, guests, serve, disk) -> None:
    served = two_queues(machine, guests, serve, disk)
    one, other = served.guest, served.other
    data = os.urandom(PAGE)
    assert one.write(8, data) == OKAY
    assert other.read(8, 8) == data
    assert other.flush() == one.flush() == OKAY
    served.plane.stop_begin()
    served.expect("stopped")
    assert [e.kind for e in served.events] == [], "one event, when both have stopped"


def test_a_flush_that_fails_on_one_queue_silences_the_other(machine, guests, serve, disk) -> None:
    served = two_queues(machine, guests, serve, disk)
    disk.fail("flush", 5, count=1)
    served.guest.submit(served.guest.request(FLUSH))
    assert served.expect("flush-failed").queue == 0
    served.other.submit(*reads(served.other, 1), served.other.request(FLUSH))
    assert served.other.quiet(0.2)
    assert served.plane.stop(timeout=5)


def test_queues_flush_one_after_the_other(machine, guests, serve, disk) -> None:
    """The kernel tells one fdatasync of an error, not two: they must not overlap."""
    served = two_queues(machine, guests, serve, disk)
    rule = disk.hold("flush", count=1)
    first, second = served.guest.request(FLUSH), served.other.request(FLUSH)
    served.guest.submit(first)
    disk.wait_held(1)
    served.other.submit(second)
    assert served.other.quiet(0.1)
    assert disk.seen("flush") == 1
    disk.clear(rule)
    assert served.guest.finish(first) == served.other.finish(second) == [OKAY]


def two_queues(machine, guests, serve, disk):
    """A plane with two rings of one domain; .other has the second."""
    guest = guests()
    other = type(guest)(machine, guest.domid)
    rings = guest.agreement.queues + other.agreement.queues
    served = serve(guest, disk=disk, agreement=Agreement(guest.domid, 51712, "native", rings))
    served.other = other
    served.cleanup.append(other.close)
    return served

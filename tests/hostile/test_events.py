"""Hostile cases V: event channels (XSA-332, XSA-391)."""
import threading
import time

import pytest

from tests.support.guest import OKAY, PAGE, READ, Agreement, Ring
from xenvbd.dataplane import DataPlane
from xenvbd.disk.memory import MemoryDisk
from xenvbd.errors import HypervisorError


def test_V1_a_storm_of_events_on_an_empty_ring_is_looked_at_a_thousand_times_a_second(case) -> None:
    hostile = case()
    guest, end = hostile.guest, threading.Event()

    def storm() -> None:
        while not end.is_set():
            guest.evtchn.notify(guest.port)

    before, began = hostile.counters(), time.monotonic()
    thread = threading.Thread(target=storm)
    thread.start()
    time.sleep(0.5)
    after = hostile.counters()
    most = 32 + 1200 * (time.monotonic() - began)
    end.set()
    thread.join()
    assert after["events_in"] - before["events_in"] < most
    assert after["wakeups"] - before["wakeups"] < 2 * most
    assert guest.read(0, 8) == hostile.image[:PAGE]


def test_V3_a_guest_that_never_rings_stalls_itself_alone(case, victim) -> None:
    hostile = case()
    guest = hostile.guest
    request = guest.request(READ, 0, guest.pages(1).segments())
    guest.put(request)
    guest.ring.push()
    assert victim.flush() == OKAY
    guest.evtchn.notify(guest.port)
    assert guest.finish(request) == [OKAY]


@pytest.mark.parametrize("port", [0, 9999, 1 << 31, (1 << 32) - 1])
def test_V4_V5_a_port_that_is_none_is_refused(machine, guests, port: int) -> None:
    guest = guests()
    plane = DataPlane(machine.join(0), MemoryDisk("mem:4M", 4 << 20))
    with pytest.raises(HypervisorError):
        plane.start(Agreement(guest.domid, 51712, "native", (Ring(guest.ring_pages.refs, port),)))
    assert machine.mappings(guest.domid) == []
    plane.destroy()


def test_V4_a_port_that_is_bound_already_is_refused(case, machine) -> None:
    hostile = case()
    plane = DataPlane(machine.join(0), hostile.disk)
    with pytest.raises(HypervisorError):
        plane.start(hostile.guest.agreement)
    plane.destroy()


def test_V6_an_event_after_the_end_goes_nowhere(case) -> None:
    hostile = case()
    assert hostile.served.plane.stop(timeout=5)
    for _ in range(100):
        hostile.guest.evtchn.notify(hostile.guest.port)


def test_a_guest_that_asks_for_every_event_gets_one_a_batch_at_most(case) -> None:
    hostile = case()
    guest = hostile.guest
    segments = guest.pages(1).segments()
    for _ in range(20):
        guest.do(*(guest.request(READ, 0, segments) for _ in range(8)))
    counters = hostile.counters()
    assert counters["events_out"] <= counters["pushes"]

"""Hostile cases X of a whole host: what a guest does to its nodes, its ring and its own life, before a manager, a store
and workers that are processes.  Beside it a victim runs a load whose every byte is checked.

XENVBD_HOSTILE_ROUNDS=10 does all that is done often so many times as often."""
import contextlib
import copy
import itertools
import os
import threading
import time
from collections.abc import Callable

import pytest

from tests.support.growth import growing, resident
from tests.support.guest import OKAY, READ, Guest, until
from tests.support.host import SimHost, wait
from xenvbd.store import Store
from xenvbd.store_sim import domain as toolstack

ROUNDS = int(os.environ.get("XENVBD_HOSTILE_ROUNDS", "1"))
DEVID, VICTIM = 51712, 1
SPARE = 2               # descriptors of a worker that is kept in reserve, which there may or may not be at a moment
NONE, INITIALISING, INITWAIT, INITIALISED, CONNECTED, CLOSING, CLOSED = None, "1", "2", "3", "4", "5", "6"
MIB = (1 << 20) * (64 if os.environ.get("XENVBD_SANITIZED") else 1)     # a sanitizer keeps what was freed


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def growth(host: SimHost, span: Callable[[], None]) -> dict[str, list[int]]:
    """What the manager has more of, in MiB, after each doing of span()."""
    return growing(span, lambda: resident(host.manager.pid, MIB))


class Hostile:
    """A guest with a disk of its own, whose nodes the test writes as it likes."""

    def __init__(self, host: SimHost, domid: int, target: str = "mem:4M") -> None:
        self.host, self.domid, self.disk = host, domid, f"{domid}:xvda"
        host.attach(domid, target, wait=False)
        self.store = Store(f"{host.directory}/store.{domid}")
        self.area = f"/local/domain/{domid}/device/vbd/{DEVID}"
        self.backend = f"/local/domain/0/backend/qdisk/{domid}/{DEVID}"
        self.guests: list[Guest] = []

    def state(self) -> str | None:
        """The backend's."""
        value = self.store.get(f"{self.backend}/state")
        return value.decode() if value else None

    def until(self, *states: str | None) -> None:
        wait(lambda: self.state() in states, f"backend state {states}, it is {self.state()}")

    def write(self, **nodes: object) -> None:
        for name, value in nodes.items():
            self.store.write(f"{self.area}/{name.replace('_', '-')}", value if isinstance(value, bytes) else str(value))

    def ring(self, order: int = 0) -> Guest:
        """Another ring, and the nodes that offer it."""
        guest = Guest(self.host.machine, self.domid, order=order, abi="x86_64-abi")
        self.guests.append(guest)
        self.offer(guest)
        return guest

    def offer(self, guest: Guest) -> None:
        refs = guest.ring_pages.refs
        self.store.rm(f"{self.area}/ring-page-order")           # of an earlier ring
        if len(refs) > 1:
            pages = {f"ring_ref{i}": ref for i, ref in enumerate(refs)}
            self.write(ring_page_order=len(refs).bit_length() - 1, **pages)
        self.write(event_channel=guest.port, protocol="x86_64-abi", ring_ref=refs[0])

    def connect(self, order: int = 0) -> Guest:
        self.until(INITWAIT)
        guest = self.ring(order)
        self.write(state=INITIALISED)
        self.until(CONNECTED)
        self.write(state=CONNECTED)
        return guest

    def leave(self) -> None:
        """Be gone, with everything that was attached; nothing of it remains anywhere."""
        host = self.host
        for guest in self.guests:
            guest.close()
        with contextlib.suppress(OSError):
            host.client.call("detach", disk=self.disk, force=True)
        self.store.close()
        wait(lambda: not host.machine.mappings(self.domid), "its pages are let go")
        wait(lambda: not [name for name in os.listdir(f"{host.directory}/run") if f"-{self.domid}-" in name
                          or name == f"worker-{self.domid}.sock"], "its files and its worker are gone")


@pytest.fixture(scope="module")
def host():
    """A host, and a victim under a load to the end of all tests."""
    made = SimHost(domids=tuple(range(16)))
    try:
        made.start()
        made.attach(VICTIM, made.image(), wait=False)
        made.free = itertools.count(VICTIM + 1)
        load = ("--rw", "randrw", "--bs", 4096, "--iodepth", 1, "--flush-every", 64, "--seconds", "600s")
        victim = made.guest(VICTIM, DEVID, *load).connected()
        yield made
        victim.process.terminate()
        assert victim.finish()["errors"] == 0
    finally:
        made.close()


def served(host: SimHost) -> int:
    return host.client.call("show", disk=f"{VICTIM}:xvda")["stats"]["read"]["ops"]


@pytest.fixture(autouse=True)
def victim(host):
    """Served before and after, by the same worker."""
    pid, before = host.worker(VICTIM), served(host)
    yield
    wait(lambda: served(host) > before, "the victim goes on")
    assert host.worker(VICTIM) == pid


@pytest.fixture
def hostile(host):
    """hostile(target): another guest with a disk."""
    made: list[Hostile] = []
    pid = host.manager.pid
    before = descriptors(pid)

    def make(*arguments: str) -> Hostile:
        made.append(Hostile(host, next(host.free), *arguments))
        return made[-1]

    yield make
    for each in made:
        each.leave()
    wait(lambda: descriptors(pid) <= before + SPARE, "the manager holds no more descriptors than before")


def reads(guest: Guest, count: int) -> list:
    segments = guest.pages(1).segments()
    return [guest.request(READ, 8 * i, segments) for i in range(count)]


def test_X14_nodes_rewritten_after_connect_change_nothing(hostile) -> None:
    each = hostile()
    guest, pid = each.connect(), each.host.worker(each.domid)
    for value in "0", "99999", "-1", b"\xff" * 2000, "x86_32-abi", "":
        each.write(ring_ref=value, event_channel=value, protocol=value, ring_page_order=value,
                       multi_queue_num_queues=value, feature_persistent=value)
        assert guest.do(*reads(guest, 4)) == [OKAY] * 4
    assert each.state() == CONNECTED and each.host.worker(each.domid) == pid


def test_X15_nodes_that_change_while_they_are_read_are_taken_as_they_were_or_refused(hostile) -> None:
    """Reading them is tried again a few times.  What came of it, a guest that begins anew is served."""
    each = hostile()
    each.until(INITWAIT)
    rings = each.ring(), each.ring()
    end = threading.Event()

    def flip() -> None:
        for guest in itertools.cycle(rings):
            if end.is_set():
                return
            each.offer(guest)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        with Store(f"{each.host.directory}/store.{each.domid}") as store:
            store.write(f"{each.area}/state", INITIALISED)
        for _ in range(50):
            assert each.host.client.call("list")["disks"], "the manager answers"
    finally:
        end.set()
        thread.join()
    each.write(state=CLOSED)
    each.until(CLOSED)
    each.write(state=INITIALISING)
    guest = each.connect()
    assert guest.do(*reads(guest, 4)) == [OKAY] * 4


def test_X18_toggling_between_initialising_and_closed_without_end(hostile) -> None:
    """XSA-350: what comes and goes faster than it can be followed is looked at a few times a second."""
    each = hostile()
    each.until(INITWAIT)
    began, log = time.monotonic(), len(each.host.text())

    def toggle() -> None:
        for _ in range(1250 * ROUNDS):
            each.write(state=CLOSED)
            each.write(state=INITIALISING)

    assert growth(each.host, toggle) == {}
    minutes = (time.monotonic() - began) / 60
    assert each.host.text()[log:].count("\n") < 30 + 10 * (ROUNDS + minutes)
    assert each.connect().do() == []


def test_X31_connecting_and_closing_again_and_again(hostile) -> None:
    each = hostile()
    pid = each.host.manager.pid
    numbers = itertools.count()

    def turn() -> None:
        number = next(numbers)
        guest = each.connect(order=number % 3)
        assert guest.do(*reads(guest, 2)) == [OKAY] * 2
        if number % 2:
            each.write(state=CLOSING)
            each.until(CLOSING)
        each.write(state=CLOSED)
        each.until(CLOSED)
        assert each.host.machine.mappings(each.domid) == []
        guest.close()
        each.guests.remove(guest)
        each.write(state=INITIALISING)

    for _ in range(4):
        turn()
    before = descriptors(pid)
    assert growth(each.host, lambda: [turn() for _ in range(4 * ROUNDS)]) == {}
    assert descriptors(pid) <= before + SPARE


def test_X19_closing_with_512_in_flight_drains_them(hostile) -> None:
    each = hostile()
    guest = each.connect(order=4)
    requests = reads(guest, 512)
    guest.submit(*requests)
    each.write(state=CLOSING)
    each.until(CLOSING)
    each.write(state=CLOSED)
    each.until(CLOSED)
    assert each.host.machine.mappings(each.domid) == []
    guest.take()
    assert set(guest.answered.values()) <= {OKAY}
    assert len(guest.answered) + len(guest.outstanding) == 512


def test_X20_closed_at_once_with_requests_in_flight(hostile) -> None:
    each = hostile()
    guest = each.connect(order=4)
    for _ in range(4):
        guest.submit(*reads(guest, 64))
    each.write(state=CLOSED)
    each.until(CLOSED)
    assert each.host.machine.mappings(each.domid) == []
    ring = bytes(memoryview(guest.ring_pages))
    each.write(state=INITIALISING)
    again = each.connect()
    assert again.do(*reads(again, 1)) == [OKAY]
    assert bytes(memoryview(guest.ring_pages)) == ring, "a ring that was given back was written to"


def test_X22_writing_to_every_node_without_end(hostile) -> None:
    """XSA-349: memory for what is to be looked at, not for how often it was told."""
    each = hostile()
    guest = each.connect()

    def write() -> None:
        for number in range(500 * ROUNDS):
            each.write(state=CONNECTED, ring_ref=number, event_channel=number, feature_persistent=number)
            each.store.write(f"{each.area}/more/{number % 7}", "x")
            if number % 100 == 0:
                each.store.rm(f"{each.area}/more")

    assert growth(each.host, write) == {}
    assert guest.do(*reads(guest, 4)) == [OKAY] * 4


def test_X23_a_thousand_nodes_and_deep_directories_beside_its_own(hostile) -> None:
    """Up to its quota.  What we write belongs to us, so it is not in the way."""
    each = hostile()
    with contextlib.suppress(OSError):
        for number in range(500):
            each.store.write(f"{each.area}/flat/{number}", "x" * 100)
        for number in range(500):
            each.store.write(f"{each.area}/deep" + f"/{number}" * 20, "x")
    for number in range(12):                # room for the ring's nodes
        each.store.rm(f"{each.area}/flat/{number}")
    guest = each.connect()
    assert guest.do(*reads(guest, 4)) == [OKAY] * 4


def test_X24_a_domain_destroyed_with_requests_in_flight_frees_its_image(host, hostile) -> None:
    each = hostile(host.image("x24.img"))
    guest = each.connect(order=4)
    guest.submit(*reads(guest, 256))
    host.machine.remove_domain(each.domid)
    with Store(f"{host.directory}/store.0") as store:
        toolstack.destroy(store, each.domid)
    wait(lambda: len(host.client.call("list")["disks"]) == 1, "its disk goes")
    other = hostile(f"{host.directory}/x24.img")
    again = other.connect()
    assert again.do(*reads(again, 1)) == [OKAY]


def test_X30_its_state_becomes_a_directory_or_nothing(hostile) -> None:
    each = hostile()
    each.connect()
    for number in range(50):
        each.store.write(f"{each.area}/state/{number}", "4")
    assert each.state() == CONNECTED
    each.store.rm(f"{each.area}/state")
    each.until(CLOSING, CLOSED)


def test_X32_two_disks_that_offer_one_ring(host, hostile) -> None:
    """The port can be bound once, so the second disk is not connected; the first goes on."""
    each = hostile()
    guest = each.connect()
    host.attach(each.domid, "mem:4M", vdev="xvdb", wait=False)
    second = copy.copy(each)
    second.area, second.backend = (path.replace(str(DEVID), "51728") for path in (each.area, each.backend))
    second.until(INITWAIT)
    second.offer(guest)
    second.write(state=INITIALISED)
    wait(lambda: "event channel" in host.client.call("show", disk=f"{each.domid}:xvdb")["note"], "it is refused")
    assert guest.do(*reads(guest, 4)) == [OKAY] * 4
    host.client.call("detach", disk=f"{each.domid}:xvdb", force=True)


def test_V7_a_guest_that_closes_its_port_and_opens_another(hostile) -> None:
    each = hostile()
    guest = each.connect()
    guest.evtchn.unbind(guest.port)
    guest.put(*reads(guest, 4))
    guest.ring.push()
    guest.port = guest.evtchn.bind_unbound(0)
    each.write(event_channel=guest.port)
    assert each.state() == CONNECTED
    each.write(state=CLOSED)
    until(lambda: each.state() == CLOSED, 30)

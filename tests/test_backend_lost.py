"""A store that goes away, and a manager that dies, at each request of a disk's life in turn."""
import contextlib
import itertools

import pytest

from tests.support.manager import BACKEND, FRONTEND, bench
from tests.test_backend import FakeWorkers, asked, backend, serving
from xenvbd.backend import Backend
from xenvbd.config import DiskOptions
from xenvbd.errors import StoreError
from xenvbd.medium import Policy
from xenvbd.store import Store
from xenvbd.xenbus import Plane


@pytest.fixture
def b():
    with bench() as made:
        yield made


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_connection_dropped_at_any_request_delays_a_disk_s_life_and_does_not_change_it(b, carried_out):
    """Attach, connect, reconnect, detach, with the store gone at the n-th request of the manager, for each n."""
    made = backend(b)
    b.sim.faults.drop_done = carried_out

    def back():
        b.store.reconnect()
        made.store_returned()

    def node(name):
        return b.sim.call(lambda: b.sim.local.read(f"{BACKEND}/{name}") if b.sim.local.exists(BACKEND) else None)

    b.store.on_lost = lambda error: b.loop.later(0.001, back)
    for number in itertools.count(1):
        b.sim.faults.drop_domid, b.sim.faults.drop_after = 0, number
        device = None
        while device is None:
            try:
                device = made.create(asked())
            except StoreError:
                b.until(lambda: b.store.connected)
        b.until(lambda: node("state") == b"2")
        b.guest.connect()
        b.until(lambda: node("state") == b"4")
        b.guest.state(6)
        b.until(lambda: node("state") == b"6")
        b.guest.state(1)
        b.until(lambda: node("state") == b"2")
        device.unplug(force=False)
        b.until(lambda: node("state") is None and not made.devices)
        if b.sim.faults.drop_after is not None:         # its life has fewer requests than that
            break
    b.sim.faults.drop_after = None
    assert number > 50
    assert not made.workers.get(7).planes
    made.close()


def new_manager(b, worker):
    """A manager with a store of its own; what an earlier one had begun is never told to anybody."""
    b.loop.forget(b.store.fileno())
    b.store.close()
    b.store = Store(b.sim.path(0))
    b.loop.read(b.store.fileno(), b.store.dispatch)
    worker.epoch += 1
    workers = FakeWorkers(b.loop)
    workers.left = [worker]
    b.store.on_lost = lambda error: None
    made = Backend(b.loop, b.store, b.runtime, workers, Policy(), ("qdisk",), lambda *names: DiskOptions(),
                   channels=lambda domid, count: [], rival=lambda kind, domid: None)
    made.start()
    b.until(lambda: made.ready)
    return made


def live(b, made):
    """Attach, connect, close, detach, as far as the store is there."""
    def until(condition):
        b.until(lambda: not b.store.connected or condition())

    with contextlib.suppress(StoreError):       # of a store that is lost, or an area that is not there for the guest
        device = made.create(asked())
        until(lambda: device.published)
        b.guest.connect()
        until(lambda: device.connected)
        b.guest.state(6)
        until(lambda: device.view.plane is Plane.NONE)
        b.guest.state(1)
        b.guest.connect()
        until(lambda: device.connected)
        device.unplug(force=True)
        until(lambda: device.gone)


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_manager_that_dies_at_any_request_leaves_nothing_that_the_next_cannot_end(b, carried_out):
    """For each n: a manager dies at its n-th request, somewhere between attach and detach; the next detaches."""
    worker, faults = serving(b), b.sim.faults
    faults.drop_done, died = carried_out, True
    for number in itertools.count(1):
        first = new_manager(b, worker)
        faults.drop_domid, faults.drop_after = 0, number
        live(b, first)
        died, faults.drop_after = faults.drop_after is None, None
        first.close()
        second = new_manager(b, worker)
        for device in list(second.devices.values()):
            device.unplug(force=True)
        b.until(lambda: not second.devices)     # noqa: B023
        assert not worker.planes and not list(b.runtime.records())
        assert not b.toolstack.exists(BACKEND) and not b.toolstack.exists(FRONTEND)
        second.close()
        if not died:
            break
    assert number > 30

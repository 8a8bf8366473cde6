"""Every request that the manager sends to xenstored refused in turn: the disk's life goes on, or what was asked is
refused with a reason, and nothing of it is left."""
import itertools
import os
import sys
import time

import pytest

from tests.faults.test_matrix import ALL
from tests.support.manager import BACKEND, FRONTEND, bench
from tests.test_backend import asked, backend
from xenvbd import backend as backend_module
from xenvbd import device as device_module
from xenvbd.errors import Error
from xenvbd.xenbus.states import CLOSED, CLOSING

ERRORS = ("EAGAIN", "ENOENT", "EACCES", "ENOSPC", "EIO", "ENOMEM", "E2BIG")


@pytest.fixture
def b(monkeypatch):
    monkeypatch.setattr(backend_module, "AGAIN_SECONDS", 0.005)
    monkeypatch.setattr(device_module, "RETRY_SECONDS", 0.005)
    with bench() as made:
        yield made


class Life:
    """Of a disk of domain 7, as far as it goes.  reason: why it goes no further; lied: the store may say of a node that
    it is not there."""

    def __init__(self, b, made, lied):
        self.b, self.made, self.lied, self.device, self.reason = b, made, lied, None, ""

    def until(self, condition) -> bool:
        """Wait until it holds, or the disk says why it will not."""
        device, soon = self.device, time.monotonic() + 0.5
        self.b.until(lambda: condition() or device.failed or device.error is not None
                     # for the frontend is gone, it was told
                     or (self.lied and time.monotonic() > soon and self.node("state") in (b"5", b"6")))
        if not condition() and device.view.backend not in (CLOSING, CLOSED):
            self.reason = str(device.error or "")
            assert len(self.reason) > 8 or device.gone, f"it does not say why: {device.view}"
        return condition()

    def node(self, name):
        b = self.b
        return b.sim.call(lambda: b.sim.local.read(f"{BACKEND}/{name}") if b.sim.local.exists(BACKEND) else None)

    def guest(self, act, *arguments, **nodes) -> bool:
        """What the guest does, whose area may be gone."""
        try:
            act(*arguments, **nodes)
        except Error:
            return False
        return True

    def run(self, force: bool) -> None:
        try:
            self.device = self.made.create(asked())
        except Error as exc:
            self.reason = str(exc)
            return
        b, guest = self.b, self.b.guest
        steps = [(lambda: True, lambda: self.node("state") == b"2"),
                 (lambda: self.guest(guest.connect), lambda: self.node("state") == b"4"),
                 (lambda: self.guest(guest.state, 6), lambda: self.node("state") == b"6"),
                 (lambda: self.guest(guest.state, 1), lambda: self.node("state") == b"2"),
                 (lambda: self.guest(guest.connect), lambda: self.node("state") == b"4")]
        if all(act() and self.until(there) for act, there in steps):
            assert self.device.connected
        if not self.device.gone:
            self.device.unplug(force)
            if not force:
                b.until(lambda: self.node("state") in (b"5", b"6", None))
                self.guest(guest.state, 6)
            b.until(lambda: self.device.gone or self.device.error is not None)

    def end(self) -> None:
        """By force, once nothing fails any more: what is left then is a leak."""
        b = self.b
        for device in list(self.made.devices.values()):
            device.unplug(force=True)
        b.until(lambda: not self.made.devices)
        assert not self.made.workers.get(7).planes and not list(b.runtime.records())
        assert not [name for name in os.listdir(b.runtime.path) if name.startswith("qdisk-7-")]


@pytest.mark.parametrize("error", ERRORS)
def test_any_request_to_xenstored_may_be_refused(b, error):
    """A refusal that says ENOENT says that a node is gone: so may the disk be then, and what is left is whoever's who
    said so.  So does EACCES of a frontend, to a driver domain."""
    made, faults = backend(b), b.sim.faults
    before, refused = len(os.listdir("/proc/self/fd")), 0
    for number in itertools.count(0, 1 if ALL else 23):
        faults.set(["refuse", str(number), error, "0"])
        life = Life(b, made, lied=error in ("ENOENT", "EACCES"))
        life.run(force=number % 2 == 0)
        hit, faults.refuse_after = faults.refuse_after is None, None
        refused += bool(life.reason)
        life.end()
        for path in (BACKEND, FRONTEND):
            assert error == "ENOENT" or not b.toolstack.exists(path), f"{path} is left by {number}: {life.reason}"
            b.toolstack.rm(path)
        assert len(os.listdir("/proc/self/fd")) <= before
        if not hit:
            break
    assert b.loop.failures == 0
    print(f"\nxenstored, {error}: {number} requests, {refused} refusals", file=sys.stderr)
    assert number > 50
    made.close()

"""A manager's parts for tests: a loop, a simulated store, a guest that writes its nodes, and a worker that is none."""
from __future__ import annotations

import contextlib
import os
import tempfile
import time

from xenvbd import target, vdev
from xenvbd.config import DiskOptions
from xenvbd.device import Device
from xenvbd.helpers import Helpers
from xenvbd.host import Host
from xenvbd.loop import Loop
from xenvbd.medium import Policy
from xenvbd.properties import Properties
from xenvbd.runtime import Runtime
from xenvbd.store import Store
from xenvbd.store_sim import SimStore

BACKEND = "/local/domain/0/backend/qdisk/7/51712"
FRONTEND = "/local/domain/7/device/vbd/51712"


class FakeWorker:
    """Answers as a worker does.  fail: the errors to give, by verb; hold: verbs whose replies wait in `held`; images:
    the (device, inode) of each that it was given."""

    pid = 4711

    def __init__(self, loop):
        self.loop = loop
        self.calls, self.fail, self.hold, self.held = [], {}, set(), []
        self.planes, self.told, self.answer = set(), {}, {}
        self.kills, self.allowed, self.images = [], {}, []
        self.looks = 0
        self.epoch = 0              # raised when a manager dies: who called before is not answered

    def kill(self, number=9):
        self.kills.append(number)

    def allow(self, disk, size):
        self.allowed[disk] = size

    def look(self):
        self.looks += 1

    def call(self, verb, done, fds=(), **params):
        self.calls.append(verb)
        self.params = params
        if params.get("image"):
            self.images.append((os.fstat(fds[0]).st_rdev or os.fstat(fds[0]).st_dev, os.fstat(fds[0]).st_ino))
        for fd in fds:
            os.close(fd)
        if verb in self.fail:
            result = self.fail[verb]
        else:
            result = self.answer
            (self.planes.add if verb == "connect" else self.planes.discard)(params["disk"])
        epoch = self.epoch

        def answer():
            if epoch == self.epoch:
                done(result)

        if verb in self.hold:
            self.held.append(answer)
        else:
            self.loop.soon(answer)


class Guest:
    """A frontend that does as the test says."""

    def __init__(self, store):
        self.store = store

    def state(self, state):
        self.store.write(f"{FRONTEND}/state", str(int(state)))

    def ring(self, **nodes):
        """Write what a blkfront writes before Initialised."""
        nodes = {"ring-ref": 8, "event-channel": 3, "protocol": "x86_64-abi"} | nodes
        for name, value in nodes.items():
            self.store.write(f"{FRONTEND}/{name.replace('_', '-')}", str(value))

    def connect(self, state=3, **nodes):
        self.ring(**nodes)
        self.state(state)


class Bench:
    """Everything that a Device needs, in one thread."""

    def __init__(self, directory, domids=(0, 7)):
        self.loop = Loop()
        self.sim = SimStore(directory, domids).start()
        self.store = Store(self.sim.path(0))
        self.store.on_lost = lambda error: None
        self.toolstack = Store(self.sim.path(0))
        self.guest = Guest(Store(self.sim.path(7)))
        self.runtime = Runtime(os.path.join(directory, "run"))
        self.worker = FakeWorker(self.loop)
        self.destroyed, self.devices = [], []
        self.host = Host(self.loop, self.store, self.runtime, Helpers(self.loop), Policy(open_seconds=5),
                         lambda domid: self.worker, lambda domid, count: [], lambda *names: DiskOptions(),
                         name_of=lambda domid, handle: "web1",
                         dirty=lambda device: self.loop.soon(device.refresh),
                         destroyed=self.destroyed.append)
        self.loop.read(self.store.fileno(), self.store.dispatch)

    def close(self):
        failures = self.loop.failures
        for device in self.devices:
            device.close()
        deadline = time.monotonic() + 10
        while self.host.helpers.running and time.monotonic() < deadline:
            self.loop.run_once(0.02)            # what a helper thread brings too late is disposed of in the loop
        self.host.images.close()
        for store in (self.store, self.toolstack, self.guest.store):
            store.close()
        self.sim.stop()
        self.loop.close()
        assert not failures, "a callback failed: see the log"

    def until(self, condition, seconds=10):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            self.loop.run_once(0.02)

    def settle(self):
        """Let everything happen that is going to happen by itself."""
        quiet = time.monotonic() + 0.05
        while time.monotonic() < quiet:
            self.loop.run_once(0.01)

    def node(self, name, area=BACKEND):
        value = self.toolstack.get(f"{area}/{name}")
        return None if value is None else value.decode()

    def device(self, text="mem:1M", **properties):
        """A device whose areas we create."""
        asked = Properties(domid=7, vdev=vdev.parse("xvda"), target=target.parse(text), **properties)
        return self._device(asked)

    def found(self, **nodes):
        """A device whose areas a toolstack has made, as libxl writes them."""
        values = {"frontend": FRONTEND, "params": "aio:/nonexistent", "frontend-id": 7, "online": 1, "state": 1,
                  "dev": "xvda", "type": "qdisk", "mode": "w", "device-type": "disk"} | nodes
        for name, value in values.items():
            self.toolstack.write(f"{BACKEND}/{name}", str(value))
        for name, value in {"backend": BACKEND, "backend-id": 0, "state": 1}.items():
            self.toolstack.write(f"{FRONTEND}/{name}", str(value))
        self.toolstack.set_perms(FRONTEND, ["n7", "r0"])
        self.toolstack.set_perms(f"{FRONTEND}/state", ["n7", "r0"])
        return self._device(None)

    def _device(self, properties):
        device = Device(self.host, "qdisk", 7, 51712, domain="vm", properties=properties)
        self.devices.append(device)
        return device


@contextlib.contextmanager
def bench(**options):
    """A Bench that leaves no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        made = Bench(directory, **options)
        try:
            yield made
        finally:
            made.close()
    deadline = time.monotonic() + 10        # a helper thread that was given up closes what it has when it notices
    while len(os.listdir("/proc/self/fd")) > before:
        assert time.monotonic() < deadline, "a descriptor was left open"
        time.sleep(0.01)



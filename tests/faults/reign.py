"""A manager under which one thing fails, while a disk of domain 1 is attached, connected, used and detached.

What fails may delay that, or refuse a part of it with a reason; nothing of it may be left behind, and nothing that was
said may be untrue.  Domain 2 has a disk all the time, which must not notice."""
from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.support.guest import FLUSH, OKAY, PAGE, WRITE, Guest
from tests.support.host import SimHost, wait
from xenvbd.control import Client
from xenvbd.disk.locks import lock_image
from xenvbd.errors import ClaimError, Error, StoreError
from xenvbd.store import Store

DEVID = 51712
SECONDS = 30                        # without what is waited for


class Reign(SimHost):
    """A host whose manager is manager.py."""

    def __init__(self, library) -> None:
        super().__init__()
        self.library = library
        self.start()
        self.client = Client(f"{self.directory}/run/control.sock", timeout=20)
        self.toolstack = Store(f"{self.directory}/store.0")
        self.neighbour = Tenant(self, 2)
        self.attach(2, self.image("2.img", 1 << 20), wait=False)
        self.neighbour.connect()
        self.backend, self.frontend = f"/local/domain/0/backend/qdisk/1/{DEVID}", f"/local/domain/1/device/vbd/{DEVID}"
        self.picture = self.image("1.img", 1 << 20)

    def start_manager(self, **environment) -> None:
        command = [sys.executable, "-P", Path(__file__).with_name("manager.py"), self.directory]
        tree = str(Path(__file__).parents[2])
        self.manager = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            env=os.environ | {"LD_PRELOAD": str(self.library), "PYTHONPATH": tree} | environment)
        wait(self.answers, "the manager answers")

    def order(self, at: int = 0, variant: int = 0) -> dict:
        """Arm (0: disarm) the fault of this number; what happened since the last order."""
        self.manager.stdin.write(json.dumps({"at": at, "variant": variant}).encode() + b"\n")
        self.manager.stdin.flush()
        assert select.select([self.manager.stdout], [], [], SECONDS)[0], f"the manager hangs: {self.text()}"
        line = self.manager.stdout.readline()
        assert line, f"the manager has died: {self.text()}"
        return json.loads(line)

    def shown(self):
        """What `list` says of domain 1's disk; None: there is none."""
        return next((disk for disk in self.client.call("list")["disks"] if disk["domid"] == 1), None)

    def close(self) -> None:
        self.toolstack.close()
        for end in self.manager.stdin, self.manager.stdout:
            with contextlib.suppress(BrokenPipeError):
                end.close()
        super().close()


class Tenant:
    """A domain's frontend: its nodes, its ring."""

    def __init__(self, host: Reign, domid: int) -> None:
        self.host, self.domid = host, domid
        self.path = f"/local/domain/{domid}/device/vbd/{DEVID}"
        self.backend = f"/local/domain/0/backend/qdisk/{domid}/{DEVID}"
        self.store = Store(f"{host.directory}/store.{domid}")
        self.guest = None

    def write(self, **nodes) -> bool:
        """Whether its area is there to be written to."""
        try:
            for name, value in nodes.items():
                self.store.write(f"{self.path}/{name.replace('_', '-')}", str(value))
        except StoreError:
            return False
        return True

    def state(self) -> bytes | None:
        """The backend's."""
        return self.host.toolstack.get(f"{self.backend}/state")

    def offer(self) -> bool:
        """Make a ring and write it into the store."""
        self.guest = Guest(self.host.machine, self.domid)
        self.pages = self.guest.pages(1)
        return self.write(ring_ref=self.guest.ring_pages.refs[0], event_channel=self.guest.port,
                          protocol="x86_64-abi", state=3)

    def connect(self) -> None:
        assert self.offer()
        wait(lambda: self.state() == b"4", f"domain {self.domid} is connected")
        self.write(state=4)

    def use(self, number: int) -> None:
        """Write something, flush it, and read it again."""
        content = b"%016d" % number * (PAGE // 16)
        self.pages.bytes[:] = content
        segments = ((self.pages.refs[0], 0, 7),)
        assert self.guest.do(self.guest.request(WRITE, 8, segments), timeout=SECONDS) == [OKAY]
        assert self.guest.do(self.guest.request(FLUSH), timeout=SECONDS) == [OKAY]
        assert self.guest.read(8, 8) == content

    def leave(self) -> None:
        """Its ring is gone."""
        if self.guest is not None:
            self.guest.close()
            self.guest = None

    def close(self) -> None:
        self.leave()
        self.store.close()


class Life:
    """Of domain 1's disk.  said: what was refused, and why."""

    def __init__(self, host: Reign) -> None:
        self.host, self.tenant, self.said = host, Tenant(host, 1), []

    def run(self, number: int, force: bool) -> list[str]:
        """Attach, connect, use, detach; what was refused."""
        self.said = []
        if self.asked("attach", domain="1", target=self.host.picture, vdev="xvda", wait=False):
            assert self.host.toolstack.get(f"{self.tenant.backend}/state") == b"2", "it is not attached"
            self.serve(number)
            self.detach(force)
        return self.said

    def asked(self, verb: str, **params) -> bool:
        """Whether it was done; if not, there is a reason."""
        try:
            self.host.client.call(verb, **params)
        except Error as exc:
            assert len(exc.message) > 8, f"{verb}: {exc!r} is no reason"
            self.said.append(f"{verb}: {exc}")
            return False
        return True

    def serve(self, number: int) -> None:
        assert self.tenant.offer()
        if wait(lambda: self.connected() or self.refused(), "the disk is connected, or says why not", SECONDS) is True:
            self.tenant.write(state=4)
            self.tenant.use(number)

    def connected(self) -> bool:
        return self.tenant.state() == b"4"

    def refused(self) -> str:
        """Why it is not going to be connected."""
        if self.tenant.state() is None:
            return "there is no disk"
        error = self.host.toolstack.get(f"{self.tenant.backend}/error") or b""
        if error:
            self.said.append(error.decode())
        return error.decode()

    def detach(self, force: bool) -> None:
        if force:
            self.tenant.leave()
            done = self.asked("detach", disk="1:xvda", force=True, timeout=SECONDS / 2)
        else:
            done = self.asked("detach", disk="1:xvda", wait=False) and self.close()
        if done:
            assert not self.host.toolstack.exists(self.tenant.backend), "it is not detached"

    def close(self) -> bool:
        """As a guest whose disk is taken away."""
        wait(lambda: self.tenant.state() in (b"5", b"6", None), "the guest is asked to close")
        self.tenant.write(state=5)
        self.tenant.write(state=6)
        wait(lambda: self.tenant.state() is None, "the disk is gone")
        self.tenant.leave()
        return True

    def end(self, failed: str = "") -> None:
        """Whatever has become of it: after a detach by force nothing of it is left, but for a file that could not be
        removed, until the next disk of its name."""
        host = self.host
        if host.shown() is not None:
            host.client.call("detach", disk="1:xvda", force=True)
        self.tenant.leave()
        assert host.client.call("list")["disks"][0]["domid"] == 2 and host.shown() is None
        for path in (host.backend, host.frontend):
            assert not host.toolstack.exists(path), f"{path} is left"
        files = {path.name for path in (host.path / "run").iterdir()}
        left = {name for name in files if name.startswith("qdisk-1-")}
        assert not left or (failed.startswith("unlink") and len(left) == 1), f"{left} is left"
        self.unlocked()
        wait(lambda: host.machine.mappings(1) == [], "the guest's pages are given back")

    def unlocked(self) -> None:
        fd = os.open(self.host.picture, os.O_RDWR)
        deadline = time.monotonic() + SECONDS
        try:
            while True:
                try:
                    lock_image(fd, self.host.picture, exclusive=True, fence=f"1/{DEVID}")
                    return
                except ClaimError:
                    assert time.monotonic() < deadline, "the image is still locked"
                    time.sleep(0.005)
        finally:
            os.close(fd)

"""Debian's own xenstored on a machine without Xen: shim.c is its hypervisor, GuestRings are guests' kernels.

Xenstored has the face of SimStore, as far as tests of both need it."""
from __future__ import annotations

import contextlib
import mmap
import os
import re
import selectors
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from xenvbd.store import Store
from xenvbd.store_sim import domain

PROGRAM = max(Path("/usr/lib").glob("xen-[0-9]*/bin/xenstored"), default=Path("/usr/lib/xen-VERSION/bin/xenstored"))
VERSION = tuple(int(number) for number in re.findall(r"\d+", PROGRAM.parts[3]))
START_SECONDS = 30
DOM0_PORT, FIRST_PORT = 2, 16       # as in shim.c
RING = 1024                         # XENSTORE_RING_SIZE of xs_wire.h
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD = 512, 513, 514, 515     # in words of 32 bits
RESET_WATCHES, HEADER = 21, struct.Struct("=IIII")
RESET_ID = 0xFFFFFFFF


def build_shim(directory: Path) -> Path:
    """Compile shim.c; needs libxen-dev."""
    shim = directory / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Wno-unused-parameter", "-O2", "-shared", "-fPIC",
                    "-o", shim, source], check=True)
    return shim


class Xenstored:
    """A running xenstored, in a directory of its own."""

    def __init__(self, directory: Path, shim: Path, domids: tuple[int, ...] = (0,)) -> None:
        if not os.access(PROGRAM, os.X_OK):
            raise FileNotFoundError(f"{PROGRAM} is not there: install xen-utils-VERSION (scripts/packages.txt)")
        self.directory = directory
        (directory / "xsd_kva").write_bytes(bytes(4096))
        (directory / "xsd_port").write_text(f"{DOM0_PORT}\n")
        os.mkfifo(directory / "events")
        environment = {"LD_PRELOAD": str(shim), "XENSTORED_RUNDIR": str(directory),
                       "XENSTORED_ROOTDIR": str(directory), "PATH": "/usr/bin:/bin"}
        self.process = subprocess.Popen([PROGRAM, "-N"], env=environment)
        self._wait_until_it_listens()
        self.rings = GuestRings(directory)
        for domid in domids:
            self.add_domain(domid)

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with socket.socket(socket.AF_UNIX) as client:
            while client.connect_ex(self.path()):
                assert self.process.poll() is None, f"xenstored ended with status {self.process.returncode}"
                assert time.monotonic() < deadline, f"xenstored does not listen after {START_SECONDS} s"
                time.sleep(0.01)

    def path(self, domid: int = 0) -> str:
        """The socket of a domain."""
        return str(self.directory / ("socket" if domid == 0 else f"store.{domid}"))

    def add_domain(self, domid: int, name: str | None = None, pv: bool = True) -> None:
        """Create a domain as xl does."""
        with Store(self.path()) as dom0:
            if domid:
                self.rings.add(domid)
            domain.create(dom0, domid, name or f"domain{domid}", pv)

    def remove_domain(self, domid: int) -> None:
        """Destroy a domain as xl does."""
        with Store(self.path()) as dom0:
            domain.destroy(dom0, domid)
        self.rings.remove(domid)

    def stop(self) -> None:
        """End it all."""
        self.rings.close()
        self.process.kill()
        self.process.wait()


class GuestRings:
    """Moves bytes between a guest's UNIX socket, store.N, and its ring page, as a guest's kernel would.

    A guest has one client at a time; the next one finds no watches and transactions of the last."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._rings: dict[int, _Ring] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._events = os.open(directory / "events", os.O_RDWR | os.O_NONBLOCK)
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, domid: int) -> None:
        """Give a guest its ring page and its socket, before it is introduced."""
        with self._lock:
            self._rings[domid] = _Ring(self.directory, domid, self._selector, self._events)
        os.eventfd_write(self._wake, 1)

    def remove(self, domid: int) -> None:
        """The guest is gone, and its clients are disconnected."""
        with self._lock:
            self._rings.pop(domid).close()

    def close(self) -> None:
        """End the thread and all rings."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for domid in list(self._rings):
            self.remove(domid)
        self._selector.close()
        os.close(self._wake)
        os.close(self._events)

    def _run(self) -> None:
        while not self._closing:
            ready = self._selector.select()
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            with self._lock:
                for key, _ in ready:
                    if key.data is not None:
                        key.data()


class _Ring:
    def __init__(self, directory: Path, domid: int, selector: selectors.BaseSelector, events: int) -> None:
        self.domid, self.selector, self.events = domid, selector, events
        page = directory / f"ring.{domid}"
        page.write_bytes(bytes(mmap.PAGESIZE))
        with page.open("r+b") as file:
            self.page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        # Indices are read and written as whole words, or xenstored would see half of one.
        self.index = memoryview(self.page).cast("I")
        notify = directory / f"notify.{domid}"
        if not notify.exists():
            os.mkfifo(notify)
        self.notify = os.open(notify, os.O_RDWR | os.O_NONBLOCK)
        self.path = directory / f"store.{domid}"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(8)
        self.client: socket.socket | None = None
        self.resetting = False
        self.to_ring, self.to_client = bytearray(), bytearray()
        selector.register(self.listener, selectors.EVENT_READ, self._accept)
        selector.register(self.notify, selectors.EVENT_READ, self._notified)

    def close(self) -> None:
        self.selector.unregister(self.notify)
        with contextlib.suppress(KeyError):     # it is not registered while there is a client
            self.selector.unregister(self.listener)
        self._hang_up()
        self.listener.close()
        os.close(self.notify)
        self.index.release()
        self.page.close()
        self.path.unlink()

    def _hang_up(self) -> None:
        if self.client is not None:
            self.selector.unregister(self.client)
            self.client.close()
            self.client = None

    def _accept(self) -> None:
        self.client, _ = self.listener.accept()
        self.selector.unregister(self.listener)
        self.selector.register(self.client, selectors.EVENT_READ, self._readable)
        self._pump()

    def _readable(self) -> None:
        assert self.client is not None
        try:
            data = self.client.recv(65536)
        except ConnectionResetError:
            data = b""
        if data:
            self.to_ring += data
        else:
            self._hang_up()
            self.resetting = True
            self.to_client.clear()
            self.to_ring += HEADER.pack(RESET_WATCHES, RESET_ID, 0, 1) + b"\0"
        self._pump()

    def _notified(self) -> None:
        os.read(self.notify, 4096)
        self._pump()

    def _pump(self) -> None:
        """Move what can be moved, and tell xenstored if anything was."""
        moved = self._put() + self._take()
        if moved:
            os.write(self.events, struct.pack("=I", FIRST_PORT + self.domid))
        if self.resetting:
            self._await_reset()
        elif self.client is not None and self.to_client:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.client.sendall(self.to_client)
            self.to_client.clear()

    def _await_reset(self) -> None:
        """Throw away what was for the last client, up to the answer to our own request."""
        while len(self.to_client) >= HEADER.size:
            _, request, _, size = HEADER.unpack_from(self.to_client)
            if len(self.to_client) < HEADER.size + size:
                return
            del self.to_client[:HEADER.size + size]
            if request == RESET_ID:
                self.resetting = False
                self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
                return

    def _put(self) -> int:
        """Copy requests into the ring."""
        cons, prod = self.index[REQ_CONS], self.index[REQ_PROD]
        count = min(RING - (prod - cons & 0xFFFFFFFF), len(self.to_ring))
        for i in range(count):
            self.page[(prod + i) % RING] = self.to_ring[i]
        del self.to_ring[:count]
        self.index[REQ_PROD] = prod + count & 0xFFFFFFFF
        return count

    def _take(self) -> int:
        """Copy answers and events out of the ring."""
        cons, prod = self.index[RSP_CONS], self.index[RSP_PROD]
        count = prod - cons & 0xFFFFFFFF
        self.to_client += bytes(self.page[RING + (cons + i) % RING] for i in range(count))
        self.index[RSP_CONS] = prod
        return count

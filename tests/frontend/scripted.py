"""A backend's XenBus side for the tests: a thread that follows the frontend's states, with the model as data plane."""
from __future__ import annotations

import select
import threading
import time
from typing import Any

from tests.frontend.model import Model
from xenvbd.errors import HypervisorError
from xenvbd.store import Store

DEVID = 51712
NODES = {"sectors": "2048", "sector-size": "512", "physical-sector-size": "4096", "info": "0", "mode": "w",
         "feature-flush-cache": "1", "feature-discard": "1", "discard-granularity": "4096", "discard-alignment": "0",
         "max-ring-page-order": "4", "max-ring-pages": "16", "feature-max-indirect-segments": "256",
         "online": "1", "device-type": "disk", "params": "aio:/image"}


def create_areas(store: Store, domid: int, nodes: dict[str, str | None]) -> tuple[str, str]:
    """Both areas as the toolstack makes them; the paths of the frontend's and the backend's."""
    front = f"/local/domain/{domid}/device/vbd/{DEVID}"
    back = f"/local/domain/0/backend/qdisk/{domid}/{DEVID}"
    for path, perms in ((back, ["n0", f"r{domid}"]), (front, [f"n{domid}", "r0"])):
        store.mkdir(path)
        store.set_perms(path, perms)
    both = {f"{back}/{node}": value for node, value in {**NODES, **nodes}.items()}
    both |= {f"{front}/backend": back, f"{front}/backend-id": "0", f"{front}/device-type": "disk",
             f"{front}/state": "1", f"{back}/frontend": front, f"{back}/frontend-id": str(domid), f"{back}/state": "1"}
    for path, value in both.items():
        if value is not None:
            store.write(path, value)
    return front, back


class Scripted:
    """Scripted(machine, domid, **nodes): a backend that stands at Initialising until start() lets it follow."""

    def __init__(self, machine: Any, domid: int, nodes: dict[str, str | None]) -> None:
        self.hypervisor = machine.join(0)
        self.domid = domid
        self.store = Store(self.hypervisor.store_path)
        self.front, self.back = create_areas(self.store, domid, nodes)
        self.model: Model | None = None
        self.disk = bytearray(2048 * 512)
        self.agreed: dict[str, bytes] = {}      # the frontend's nodes at each connect
        self.states: list[int] = []             # the frontend's, as seen
        self.refuses = False                    # go to Closing instead of Connected
        self.error: BaseException | None = None
        self._stop, self._following = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted")

    def start(self) -> Scripted:
        """Stand at InitWait and follow the frontend from now on, the state that it is in included."""
        self.store.write(f"{self.back}/state", "2")
        self._thread.start()
        self._following.wait(10)
        return self

    def saw(self, *states: int) -> bool:
        """Whether the last that it saw of the frontend, now or within ten seconds, are these states."""
        deadline = time.monotonic() + 10
        while tuple(self.states[-len(states):]) != states and time.monotonic() < deadline:
            time.sleep(0.005)
        return tuple(self.states[-len(states):]) == states

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._disconnect()
        self.store.close()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            store = Store(self.hypervisor.store_path)
            store.watch(f"{self.front}/state", lambda path: self._follow(store))
            poll = select.poll()
            poll.register(store.fileno(), select.POLLIN)
            while not self._stop.is_set():
                if store.dispatch() == 0:
                    poll.poll(20)
            store.close()
        except BaseException as error:
            self.error = error

    def _follow(self, store: Store) -> None:
        front, back = (int(store.get(f"{side}/state", b"0")) for side in (self.front, self.back))
        self.states.append(front)
        self._following.set()
        if front == 1 and back == 6:
            store.write(f"{self.back}/state", "2")
        elif front in (3, 4) and back == 2:
            self._connect(store)
        elif front == 5 and back < 5:
            store.write(f"{self.back}/state", "5")
        elif front == 6 and back != 6:
            self._disconnect()
            store.write(f"{self.back}/state", "6")

    def _connect(self, store: Store) -> None:
        self.agreed = {node: store.read(f"{self.front}/{node}") for node in store.ls(self.front)}
        if self.refuses:
            store.write(f"{self.back}/error", "no such image")
            store.write(f"{self.back}/state", "5")
            return
        order = int(self.agreed.get("ring-page-order", b"0"))
        names = [f"ring-ref{i}" for i in range(1 << order)] if "ring-page-order" in self.agreed else ["ring-ref"]
        refs, port = [int(self.agreed[name]) for name in names], int(self.agreed["event-channel"])
        try:
            self.model = Model(self.hypervisor, self.domid, refs, port, self.agreed["protocol"].decode(), self.disk)
        except HypervisorError:
            return      # the frontend has gone again meanwhile
        store.write(f"{self.back}/state", "4")

    def _disconnect(self) -> None:
        model, self.model = self.model, None
        if model is not None:
            model.stop()

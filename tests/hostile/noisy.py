"""A noisy neighbour: one of eight guests attacks at full rate, the seven others work; what it costs them and the host.

All are processes: a victim is `python -m xenvbd.frontend`, the attacker is this file.  Each attack is compared with an
eighth guest that works as the others do, for that one uses a processor, too.  scripts/noisy-neighbour prints the table;
test_noisy.py asserts the bounds that do not depend on how fast the machine is today."""
from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tests.support.guest import READ, Guest
from tests.support.host import SimHost, wait
from xenvbd.hv import sim
from xenvbd.store import Store

VICTIMS, ATTACKER, DEVID = tuple(range(1, 8)), 8, 51712
LOAD = ("--rw", "randrw", "--bs", 4096, "--iodepth", 4, "--flush-every", 256, "--prepare")
AREA = f"/local/domain/{ATTACKER}/device/vbd/{DEVID}"
BACKEND = f"/local/domain/0/backend/qdisk/{ATTACKER}/{DEVID}"
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGESIZE")


# The attacker

def connect(store: Store, guest: Guest) -> None:
    """The handshake; whatever state an earlier connection was left in."""
    store.write(f"{AREA}/state", "6")
    wait(lambda: store.get(f"{BACKEND}/state") == b"6", "Closed")
    store.write(f"{AREA}/state", "1")
    wait(lambda: store.get(f"{BACKEND}/state") == b"2", "InitWait")
    for name, value in {"ring-ref": guest.ring_pages.refs[0], "event-channel": guest.port,
                        "protocol": "x86_64-abi", "state": 3}.items():
        store.write(f"{AREA}/{name}", str(value))
    wait(lambda: store.get(f"{BACKEND}/state") == b"4", "Connected")
    store.write(f"{AREA}/state", "4")


def events(store: Store, guest: Guest) -> None:
    """Notifications without a request."""
    for _ in range(10000):
        guest.evtchn.notify(guest.port)


def requests(store: Store, guest: Guest) -> None:
    """Rings full of requests that are refused, each for another reason."""
    ring, gref = guest.ring, guest.pages(1).refs[0]
    bad = [guest.request(255), guest.request(READ, 1 << 60, ((gref, 0, 7),)), guest.request(READ, 0, ((gref, 7, 0),)),
           guest.request(READ, 0, ((99999, 0, 7),)), guest.request(READ, 0, ())]
    for number in range(ring.free()):
        ring.put(bad[number % len(bad)])
    guest.push()
    while ring.free() < ring.entries:
        for _ in range(ring.pending()):
            ring.take()
        if ring.free() < ring.entries and not ring.final_check():
            select.select([guest.evtchn.fileno()], [], [], 0.1)
            while (port := guest.evtchn.pending()) is not None:
                guest.evtchn.unmask(port)


def nodes(store: Store, guest: Guest) -> None:
    """Writes to its state, and to all else that it may write."""
    for number in range(100):
        store.write(f"{AREA}/state", "4")
        store.write(f"{AREA}/ring-ref", str(number))
        store.write(f"{AREA}/more/{number % 9}", "x" * 500)


def reconnects(store: Store, guest: Guest) -> None:
    """Closing and connecting, as fast as the backend goes along."""
    connect(store, guest)


ATTACKS: dict[str, Callable[[Store, Guest], None]] = {
    each.__name__: each for each in (events, requests, nodes, reconnects)}


def attack(directory: str, kinds: list[str]) -> None:
    """Be domain 8, until killed; "ready" on stdout once connected."""
    store, machine = Store(f"{directory}/store.{ATTACKER}"), sim.Machine.open(directory)
    guest = Guest(machine, ATTACKER, abi="x86_64-abi")
    connect(store, guest)
    print("ready", flush=True)
    while True:
        for kind in kinds:
            ATTACKS[kind](store, guest)
            if kind == "nodes" and "requests" in kinds:
                connect(store, guest)


# The measurement

@dataclass
class Cost:
    """What one attack cost.  iops, p99: of the victims, the median; memory in MiB, of private pages; lines of the log
    about the eighth guest, in all; writes to its area a second; processor time of a second; how long it took."""

    attack: str
    iops: float
    p99: float
    errors: int
    worker: float
    manager: float
    lines: int
    writes: float
    worker_cpu: float
    manager_cpu: float
    seconds: float


def private(pid: int) -> float:
    """MiB of a process that are its own."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def busy(pid: int) -> float:
    """Seconds of processor time."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Noisy:
    """A host with eight disks."""

    def __init__(self) -> None:
        self.host = SimHost(domids=(0, *VICTIMS, ATTACKER))
        self.host.start()
        for domid in (*VICTIMS, ATTACKER):
            self.host.attach(domid, self.host.image(f"{domid}.img"), wait=False)
        self.writes = 0
        self.store = Store(f"{self.host.directory}/store.0")
        self.store.watch(BACKEND, self._written)

    def _written(self, path: str) -> None:
        self.writes += 1

    def close(self) -> None:
        self.store.close()
        self.host.close()

    def _lines(self) -> int:
        """What the log has about the eighth guest."""
        names = f"domain{ATTACKER}:", f"worker {ATTACKER} "
        return sum(any(name in line for name in names) for line in self.host.text().splitlines())

    def _guest(self, domid: int, seconds: float) -> object:
        return self.host.guest(domid, DEVID, *LOAD, "--seconds", f"{seconds:g}s")

    @contextlib.contextmanager
    def _attacker(self, kinds: list[str], seconds: float):
        """The eighth guest: at work like the others, or attacking."""
        if not kinds:
            yield self._guest(ATTACKER, seconds).process
            return
        process = subprocess.Popen([sys.executable, "-m", "tests.hostile.noisy", self.host.directory, *kinds],
                                   stdout=subprocess.PIPE, stderr=self.host.log)
        try:
            assert process.stdout.readline() == b"ready\n", self.host.text()
            yield process
            assert process.poll() is None, f"the attacker ended: {self.host.text()[-2000:]}"
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def measure(self, name: str, kinds: list[str], seconds: float) -> Cost:
        """Let all work for so long."""
        manager, lines = self.host.manager.pid, self._lines()
        with self._attacker(kinds, seconds):
            victims = [self._guest(domid, seconds) for domid in VICTIMS]
            for victim in victims:
                victim.connected()
            while self.store.dispatch():
                pass
            worker, self.writes = self.host.worker(ATTACKER), 0
            began, before = time.monotonic(), (busy(worker), busy(manager))
            results = [victim.finish(60 + 10 * seconds) for victim in victims]
            took = time.monotonic() - began
            while self.store.dispatch():
                pass
            cost = Cost(name, median(result["iops"] for result in results), median(r["p99-us"] for r in results),
                        sum(result["errors"] for result in results), private(worker), private(manager),
                        self._lines() - lines, self.writes / took,
                        (busy(worker) - before[0]) / took, (busy(manager) - before[1]) / took, took)
        return cost


def measure_all(seconds: float) -> list[Cost]:
    """A neighbour like the others, then each attack, then all of them in turn."""
    noisy = Noisy()
    try:
        cases = {"works as the others do": [], **{name: [name] for name in ATTACKS}, "all in turn": list(ATTACKS)}
        return [noisy.measure(name, kinds, seconds) for name, kinds in cases.items()]
    finally:
        noisy.close()


def table(costs: list[Cost]) -> str:
    """In Markdown."""
    fair = costs[0]
    rows = ["| the eighth guest | IOPS of a victim | p99, us | its worker, MiB | manager, MiB | log lines | "
            "xenstore writes/s | its worker's CPU | manager's CPU |", "|---|---|---|---|---|---|---|---|---|"]
    for cost in costs:
        rows.append(f"| {cost.attack} | {cost.iops:.0f} ({cost.iops / fair.iops:.2f}) | {cost.p99:.0f} "
                    f"({cost.p99 / fair.p99:.2f}) | {cost.worker:.1f} | {cost.manager:.1f} | {cost.lines} | "
                    f"{cost.writes:.1f} | {cost.worker_cpu:.0%} | {cost.manager_cpu:.0%} |")
    return "\n".join(rows)


if __name__ == "__main__":
    attack(sys.argv[1], sys.argv[2:])

"""Worker, manager, both and the store killed at random under guests that verify: no error, nothing lost.

`make test-crash` prints the pauses: from the kill to the first request answered after it."""
from __future__ import annotations

import os
import random
import signal
import sys
import time

import pytest

from tests.crash.test_kills import CYCLES, SEED
from tests.support.host import SimHost, wait
from xenvbd.stats import Snapshot

DEVID = 51712
DEPTHS = {1: 32, 2: 256}
KINDS = ("worker", "worker", "worker", "manager", "both", "store", "hand-over")
KILLS = max(14, CYCLES // 4)
STOP_SECONDS = 20


class Killing:
    """A host with two guests under load, and what was done to it.  pauses: seconds, by what was killed."""

    def __init__(self, host, seed):
        self.host, self.random = host, random.Random(seed)
        self.pauses = {kind: [] for kind in KINDS}
        self.guests = {}
        for domid, depth in DEPTHS.items():
            host.attach(domid, host.image(f"{domid}.img", 16 << 20), wait=False)
            self.guests[domid] = host.guest(
                domid, DEVID, "--rw", "randrw", "--bs", 4096, "--iodepth", depth, "--verify", "--seconds", "3600s",
                "--flush-every", 40, "--discard-every", 97, "--seed", seed, "--io-timeout", "90s").connected()

    def ops(self, domid):
        """Requests answered so far, as the counters of the disk have it."""
        counters = Snapshot.of_files([f"{self.host.directory}/run/qdisk-{domid}-{DEVID}.q0.stats"])
        return sum(op.ops for op in counters.ops.values())

    def cycle(self, kind):
        """Kill, and see all guests go on."""
        started = time.monotonic()
        domid = self.random.choice(list(self.guests))
        getattr(self, kind.replace("-", "_"))(domid)
        if kind in ("worker", "both", "hand-over"):
            self.pauses[kind].append(self.wait_for(domid, started))
        for other in self.guests:
            self.wait_for(other, started)
        time.sleep(self.random.random() * 0.1)

    def wait_for(self, domid, started):
        """Seconds until another request of the domain is answered."""
        before = self.ops(domid)
        while self.ops(domid) == before:
            assert self.guests[domid].process.poll() is None, self.guests[domid].output.read_text()[-2000:]
            assert time.monotonic() - started < 60, f"domain {domid} hangs: {self.host.text()[-3000:]}"
            time.sleep(0.0005)
        return time.monotonic() - started

    def worker(self, domid, number=signal.SIGKILL):
        pid = wait(lambda: self.host.worker(domid), "there is a worker")
        os.kill(pid, number)
        wait(lambda: _ended(pid), "the worker has ended")

    def hand_over(self, domid):
        self.worker(domid, signal.SIGTERM)

    def manager(self, domid):
        self.host.manager.kill()
        self.host.manager.wait(30)
        self.host.start_manager(PAUSE_SECONDS="0")
        wait(lambda: len(self.host.client.call("list")["disks"]) == len(DEPTHS), "the disks are taken over")

    def both(self, domid):
        pid = wait(lambda: self.host.worker(domid), "there is a worker")
        self.host.manager.kill()
        os.kill(pid, signal.SIGKILL)
        self.host.manager.wait(30)
        self.host.start_manager(PAUSE_SECONDS="0")

    def store(self, domid):
        self.host.store.kill()
        self.host.store.wait(30)
        for other in self.guests:
            self.wait_for(other, time.monotonic())
        self.host.start_store()
        wait(lambda: self.host.client.call("ping")["store"], "the manager is back at the store")

    def report(self):
        """Percentiles of the pauses, a line for each kind."""
        for kind, pauses in self.pauses.items():
            if pauses:
                print(f"  {kind:9} {len(pauses):5} pauses: {percentiles(pauses)}", file=sys.stderr)


def percentiles(pauses):
    """p50, p99 and max in milliseconds, as a text."""
    ordered = sorted(pauses)
    names = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": len(ordered) - 1}
    return ", ".join(f"{name} {1000 * ordered[at]:.0f} ms" for name, at in names.items())


def _ended(pid):
    """Whether the process is no more, or only its exit status."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):      # also between open and read
        return True


@pytest.fixture
def killing():
    host = SimHost()
    host.start_store()
    host.start_manager(PAUSE_SECONDS="0")
    try:
        yield Killing(host, SEED)
    finally:
        host.close()


def test_no_guest_sees_an_error_whatever_is_killed(killing):
    for number in range(KILLS):
        killing.cycle(KINDS[number] if number < len(KINDS) else killing.random.choice(KINDS))
        if number % 50 == 49:
            print(f"\n{number + 1} of {KILLS} kills, seed {SEED}", file=sys.stderr)
            killing.report()
    print(f"\n{KILLS} kills, seed {SEED}, depths {list(DEPTHS.values())}:", file=sys.stderr)
    killing.report()
    for guest in killing.guests.values():
        guest.process.terminate()
        result = guest.finish(STOP_SECONDS + 60)
        assert result["errors"] == result["mismatches"] == 0 < result["ops"], guest.output.read_text()[-3000:]

"""One measurement of `xenvbd bench`: a machine, a guest, what both ends count."""
from __future__ import annotations

import argparse
import errno
import time
from typing import Any

from xenvbd import features, vdev
from xenvbd.cli import attach, figures, render, work
from xenvbd.cli.guest import Event, Frontend, Guest
from xenvbd.cli.machine import Machine
from xenvbd.cli.pauses import Pauses
from xenvbd.cli.progress import Progress
from xenvbd.cli.stream import Streams
from xenvbd.cli.tree import stopping_signals
from xenvbd.errors import Error
from xenvbd.runtime import Runtime
from xenvbd.stats import Snapshot
from xenvbd.target import Target

DISK = "bench:xvda"
# Beyond the load itself: connecting, and requests that are slow to end.
SLACK_SECONDS = 60.0


def run(options: argparse.Namespace) -> int:
    """Print the figures."""
    work.check(options)
    target = work.resolve(options.target, options)
    pauses: list[float] = []
    with stopping_signals():
        while True:
            if options.kills:
                options.seconds = Pauses.lasts(options.kills - len(pauses))
            with Machine(Streams(), allow=work.allowed([target])) as machine:
                measured = Bench(options, machine, target, pauses).run()
            if len(pauses) >= options.kills:
                break
    print(render.as_json(measured) if options.json else figures.text(measured))
    return 0


class Bench:
    """One measurement."""

    def __init__(self, options: argparse.Namespace, machine: Machine, target: Target, pauses: list[float]) -> None:
        """pauses: what the guest has waited after each kill, on the machines before this one; added to."""
        self.options, self.machine, self.target = options, machine, target
        self.events: dict[str, Event] = {}
        self.frontend: Frontend | None = None
        self.worker_cpu = 0.0
        self.disk: dict[str, Any] = {}
        self.pauses = Pauses(options.kills - len(pauses), self.answered, pauses)
        self.progress = Progress(options.seconds, fd=options.progress, quiet=options.quiet or options.json)

    def run(self) -> dict[str, Any]:
        """The figures, see figures.measured().  Raises Error if the guest or the daemon fails."""
        self.machine.start()
        Guest(self.machine, 1, DISK.partition(":")[0], self.arguments, self.take)
        params = attach.properties(self.options) | {"target": str(self.target), "max-queues": self.options.queues}
        shown = self.machine.client().call("attach", domain="bench", vdev="xvda", wait=False,
                                           mode="w" if work.writes(self.options) else "r", **params)
        attach.warn(self.options, shown)
        deadline = time.monotonic() + self.options.seconds + SLACK_SECONDS
        while "result" not in self.events:
            self.machine.streams.wait(0.1)
            self.machine.check()
            self.check(deadline)
            if self.pauses.due:
                self.kill()
        self.progress.show(done=True)
        return figures.measured(self.options, self.target, self.disk, self.events["result"], self.worker_cpu,
                                self.pauses.seconds)

    def arguments(self, name: str) -> list[str]:
        """The frontend's arguments."""
        words = ["--persona", self.options.persona, "--hold", "--no-verify", "--no-blank"]
        region = ["--size", str(self.options.size)] if self.options.size else []
        return words + work.arguments(self.options) + region

    def take(self, frontend: Frontend, event: Event) -> None:
        """An event of the guest: between the first and the last the backend is measured."""
        self.frontend = frontend
        self.events[event["event"]] = event
        if event["event"] == "connected":
            self.progress.started = time.monotonic()
            self.worker_cpu = -cpu_seconds(self.show()["pid"])
            self.pauses.begin()
        elif event["event"] == "result":
            self.disk = self.show()
            self.worker_cpu += cpu_seconds(self.disk["pid"])

    def kill(self) -> None:
        """Kill the worker, and count the next one's processor time from where it serves."""
        pid = self.show()["pid"]
        self.worker_cpu += cpu_seconds(pid)
        self.pauses.kill(pid, SLACK_SECONDS, self.ended)
        self.worker_cpu -= cpu_seconds(self.show()["pid"])

    def ended(self) -> bool:
        """Whether the guest has done its load."""
        self.machine.streams.wait(0)
        return "result" in self.events

    def answered(self) -> int:
        """Requests so far, by the counters that outlive a worker."""
        runtime, key = Runtime(self.machine.runtime), Runtime.key(features.OWN_KIND, 1, vdev.parse("xvda").number)
        files = [runtime.stats(key, queue) for queue in range(self.options.queues)]
        return sum(op.ops for op in Snapshot.of_files(files).ops.values())

    def show(self) -> dict[str, Any]:
        """What the daemon knows of the disk."""
        return self.machine.client().call("show", disk=DISK)

    def check(self, deadline: float) -> None:
        """Show how far it is; raise Error if the guest failed, or is overdue."""
        if "connected" in self.events:
            self.progress.show()
        if error := self.events.get("error"):
            raise Error(errno.EIO, f"the guest stopped: {error['message']}", disk=DISK)
        if self.frontend and self.frontend.gone and "result" not in self.events:
            raise Error(errno.EIO, "the guest ended before its load did", disk=DISK)
        if time.monotonic() > deadline:
            raise Error(errno.ETIMEDOUT, "the guest has not finished its load", disk=DISK)


def cpu_seconds(pid: int) -> float:
    """The CPU time of all threads of a process, also of those that have ended."""
    # The clock of another process, as clock_getcpuclockid(3) makes it: CPUCLOCK_SCHED.
    return time.clock_gettime(~pid << 3 | 2)

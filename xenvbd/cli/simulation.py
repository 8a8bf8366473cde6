"""One run of `xenvbd sim`: guests, their disks, what is shown of them, and the report at the end."""
from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xenvbd import errors, target, vdev
from xenvbd.cli import directory, render, report, work
from xenvbd.cli.guest import Event, Frontend, Guest
from xenvbd.cli.machine import Machine
from xenvbd.cli.stream import Streams
from xenvbd.cli.tree import stopping_signals
from xenvbd.cli.view import View, story
from xenvbd.target import Target

CHECK_SECONDS = 0.5


def run(options: argparse.Namespace) -> int:
    """0 if every byte was as it should be."""
    work.check(options)
    targets = [work.resolve(text, options) for text in options.targets]
    with stopping_signals(), directory.own("xenvbd-images-") as images:
        targets += [new_image(images, number, options.size) for number in range(len(targets), options.guests)]
        view = View(quiet=options.quiet or options.json)
        with Machine(Streams(), allow=["/"] if options.keep else work.allowed(targets)) as machine:
            return Simulation(options, machine, view, targets).run()


def new_image(directory: Path, number: int, size: int) -> Target:
    """A sparse image of so many bytes."""
    path = directory / f"guest{number + 1}.img"
    with path.open("wb") as image:
        image.truncate(size)
    return target.parse(str(path))


@dataclass
class Disk:
    """A disk that the run gives to a guest, and how its frontend gets on."""

    name: str
    target: Target
    frontend: Frontend | None = None
    line: str = ""
    before: Event = field(default_factory=dict)

    @property
    def remembers(self) -> bool:
        """null: keeps nothing, so there is nothing to compare."""
        return self.target.scheme != "null"


class Simulation:
    """Disk number i goes to guest i modulo the number of guests."""

    def __init__(self, options: argparse.Namespace, machine: Machine, view: View, targets: Sequence[Target]) -> None:
        self.options, self.machine, self.view = options, machine, view
        self.writes = work.writes(options)
        self.disks = {disk.name: disk for disk in map(self._disk, range(len(targets)), targets)}
        self.guests: list[Guest] = []
        machine.take = self.daemon_says

    def _disk(self, number: int, backing: Target) -> Disk:
        place, guest = divmod(number, self.options.guests)
        return Disk(f"guest{guest + 1}:{vdev.free(202 << 8 | each << 4 for each in range(place)).name}", backing)

    def run(self) -> int:
        """The machine's whole life; the exit status."""
        self.machine.start()
        self.view.line(f"a simulated machine; for a second terminal:  export XENVBD_SOCKET={self.machine.socket}")
        self.view.line(f"its hypervisor is {self.machine.spec}")
        for number in range(1, self.options.guests + 1):
            self.guests.append(Guest(self.machine, number, f"guest{number}", self.arguments, self.guest_says))
        for disk in self.disks.values():
            self.attach(disk)
        self.wait(lambda: all(map(self.finished, self.disks.values())))
        status = self.report()
        if self.options.keep:
            self.keep()
        self.part()
        return status

    # Orders

    def attach(self, disk: Disk) -> None:
        """Have the daemon offer the disk; the guest's frontend finds it by itself."""
        domain, _, name = disk.name.rpartition(":")
        self.machine.client().call("attach", domain=domain, vdev=name, target=str(disk.target), wait=False,
                                   mode="w" if self.writes else "r", **{"max-queues": self.options.queues})

    def arguments(self, name: str) -> list[str]:
        """A frontend's arguments: the load for our disks; one that an admin attaches meanwhile is only connected."""
        words = ["--persona", self.options.persona, "--hold", "--interval", "500ms"]
        disk = self.disks.get(name)
        if disk is None or disk.frontend is not None:
            return [*words, "--no-blank"]
        words += work.arguments(self.options)
        if self.writes and disk.remembers:
            return [*words, "--prepare", "--digest", "--no-blank"]
        return [*words, "--no-verify", "--no-blank"]

    def finished(self, disk: Disk) -> bool:
        """Whether the guest has done all that it was to do with a disk, or has given up."""
        if disk.frontend is None:
            return False
        last = "digest" if self.writes and disk.remembers else "result"
        return disk.frontend.gone or last in disk.frontend.last

    def wait(self, condition: Callable[[], bool]) -> None:
        """Let everything go on until the condition holds.  Raises Error if the daemon ends."""
        while not self.machine.streams.until(condition, CHECK_SECONDS):
            self.machine.check()

    def keep(self) -> None:
        """Stay up until a signal."""
        self.view.line("the machine stays up until Ctrl-C", always=not self.options.json)
        with contextlib.suppress(KeyboardInterrupt):
            self.wait(lambda: False)

    def part(self) -> None:
        """Take every disk from its guest, those too that an admin has attached."""
        client = self.machine.client()
        for disk in client.call("list")["disks"]:
            client.call("detach", disk=f"{disk['domid']}:{disk['name']}", wait=True)

    # What is heard

    def daemon_says(self, event: Event) -> None:
        """A trace event, or a line of the daemon's log."""
        if event["event"] == "log":
            self.view.line(f"daemon: {event['message']}")
        elif text := story(event):
            self.view.happened(event.get("disk", ""), text)

    def guest_says(self, frontend: Frontend, event: Event) -> None:
        """An event of a frontend's process."""
        disk = self.disks.get(frontend.name)
        if disk and disk.frontend is None:
            disk.frontend = frontend
        if event["event"] == "state":
            self.view.happened(frontend.name, f"{event['side']:<10}  {event[event['side']] or 'removed'}")
        elif event["event"] == "error":
            self.view.happened(frontend.name, f"{event['class']}: {event['message']}")
        elif event["event"] == "progress" and disk:
            self.progress(disk, event)

    def progress(self, disk: Disk, event: Event) -> None:
        """Show the rates since the last such event; on a terminal together with the other disks'."""
        same = disk.before.get("phase") == event["phase"]
        disk.line = f"{self.view.elapsed:7.2f} s  {disk.name:<14}  {report.rates(event, disk.before if same else {})}"
        disk.before = event
        lines = [each.line for each in self.disks.values() if each.line] if self.view.tty else [disk.line]
        self.view.block(lines)

    # The end

    def report(self) -> int:
        """Print what was done and whether the images hold it; the exit status."""
        self.view.settle()
        totals = [report.total(disk.name, disk.target, disk.frontend.last, disk.frontend.phases)
                  for disk in self.disks.values() if disk.frontend]
        good = all(total["ok"] for total in totals)
        if self.options.json:
            stays = self.options.keep
            print(render.as_json({"ok": good, "disks": totals, "socket": self.machine.socket if stays else None,
                                  "hypervisor": self.machine.spec if stays else None}), flush=True)
        else:
            self.view.line(always=True)
            self.view.line(report.text(totals), always=True)
        return errors.DONE if good else errors.FAILED



"""The guests of a simulated machine: for each disk that appears, a process with the reference frontend, as a guest's
kernel starts its driver."""
from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from xenvbd import vdev
from xenvbd.cli.machine import Machine
from xenvbd.store_sim import domain

Event = dict[str, Any]
Take = Callable[["Frontend", Event], None]


class Frontend:
    """One disk of a guest: its process, and the last event of each kind that it said."""

    def __init__(self, guest: Guest, devid: int) -> None:
        self.guest, self.devid = guest, devid
        self.name = f"{guest.name}:{vdev.from_number(devid).name}"
        self.last: dict[str, Event] = {}
        self.phases: dict[str, Event] = {}
        self.gone = False                       # the process
        self.detached = False                   # the disk
        machine = guest.machine
        self.process = machine.tree.python(
            "xenvbd.frontend", "--json", "--hypervisor", machine.spec, "--domid", str(guest.domid),
            "--devid", str(devid), *guest.arguments(self.name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self.process.stdout is not None
        machine.streams.lines(self.process.stdout.fileno(), self._line, self._end)

    def _line(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = {"event": "error", "class": "Error", "message": line.decode(errors="backslashreplace")}
        self.last[event["event"]] = event
        if event["event"] == "progress":
            self.phases[event["phase"]] = event
        self.guest.take(self, event)

    def _end(self) -> None:
        """The process has closed its output: it has ended, or is about to."""
        self.gone = True
        self.guest.machine.tree.stop(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.guest.look()

    @property
    def error(self) -> Event | None:
        """What it failed of, if it did."""
        return self.last.get("error")


class Guest:
    """A domain.  A new disk is driven with the arguments that arguments("guest1:xvda") gives."""

    def __init__(self, machine: Machine, domid: int, name: str, arguments: Callable[[str], Sequence[str]],
                 take: Take) -> None:
        self.machine, self.domid, self.name, self.arguments, self.take = machine, domid, name, arguments, take
        self.frontends: dict[int, Frontend] = {}
        machine.machine.add_domain(domid)
        domain.create(machine.store, domid, name)
        machine.store.watch(f"/local/domain/{domid}/device/vbd", lambda path: self.look())

    def look(self) -> None:
        """Start a process for each disk that has come, forget those that have gone.

        A toolstack writes its nodes in one transaction, so a disk that is there is whole."""
        there = self._devids()
        for devid, frontend in list(self.frontends.items()):
            frontend.detached |= devid not in there
            if frontend.detached and frontend.gone:
                del self.frontends[devid]
        for devid in there - set(self.frontends):
            self.frontends[devid] = Frontend(self, devid)

    def _devids(self) -> set[int]:
        base = f"/local/domain/{self.domid}/device/vbd"
        if not self.machine.store.exists(base):
            return set()
        return {int(name) for name in self.machine.store.ls(base)
                if re.fullmatch(r"\d{1,10}", name) and self.machine.store.exists(f"{base}/{name}/backend")}

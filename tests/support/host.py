"""A whole simulated host for tests: machine, store, manager, workers and guests, each a process that can be killed."""
from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from xenvbd.control import Client
from xenvbd.errors import Error
from xenvbd.hv import sim

SERVE = """
import logging, os, sys
from dataclasses import replace
from xenvbd import config, service, workers
workers.PAUSE_SECONDS = float(os.environ.get("PAUSE_SECONDS", workers.PAUSE_SECONDS))
logging.basicConfig(format="%(relativeCreated)d %(name)s %(message)s", level=logging.INFO)
directory, kinds = sys.argv[1:]
alarm = os.environ.get("STALL_ALARM")
options = replace(config.DiskOptions(), stall_alarm=float(alarm) if alarm else 30.0)
settings = replace(config.Config(), options=options, hypervisor=f"sim:{directory}", runtime_dir=f"{directory}/run",
                   kinds=tuple(kinds.split(",")), allow=(directory,))
sys.exit(service.serve(settings, stop_workers=os.environ.get("STOP_WORKERS") == "1"))
"""


def wait(condition, what, seconds=30):
    """Until condition() is true; its value.  what: is waited for, in words, or a function that says it at the end."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what() if callable(what) else what}"
        time.sleep(0.005)
    return value


class GuestProcess:
    """`python -m xenvbd.frontend`, and what it has said."""

    def __init__(self, host, domid, devid, arguments):
        self.host = host
        command = [sys.executable, "-m", "xenvbd.frontend", "--hypervisor", f"sim:{host.directory}",
                   "--domid", str(domid), "--devid", str(devid), "--json", "--interval", "0.1s", *arguments]
        self.output = host.path / f"guest-{domid}-{devid}-{time.monotonic_ns()}"
        with open(self.output, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=host.log, stdin=subprocess.DEVNULL)

    def events(self, kind=None):
        """The events so far, all or of one kind."""
        lines = self.output.read_text().splitlines()
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):       # the last may be half written
                found.append(json.loads(line))
        return [event for event in found if kind in (None, event.get("event"))]

    def connected(self):
        wait(lambda: self.events("connected") or self.process.poll() is not None, "the guest connects")
        assert self.events("connected"), self.output.read_text() + self.host.text()
        return self

    def finish(self, seconds=60):
        """Its result, once it has ended well."""
        status = self.process.wait(seconds)
        assert status == 0, f"status {status}: {self.output.read_text()} {self.host.text()}"
        return self.events("result")[-1]

    def kill(self):
        self.process.kill()
        self.process.wait(30)


class SimHost:
    """A machine with a store and a manager; guests as they are asked for."""

    def __init__(self, domids=(0, 1, 2), kinds="qdisk"):
        self.directory = tempfile.mkdtemp(prefix="xenvbd-", dir="/dev/shm")
        self.path, self.kinds = Path(self.directory), kinds
        self.log = open(self.path / "log", "ab")    # noqa: SIM115
        self.machine = sim.Machine.create(self.directory)
        for domid in domids:
            if domid:
                self.machine.add_domain(domid)
        self.domids = domids
        self.guests, self.store, self.manager = [], None, None
        self.client = Client(f"{self.directory}/run/control.sock", timeout=60)

    def start(self):
        self.start_store()
        self.start_manager()
        return self

    def start_store(self):
        domains = ",".join(map(str, self.domids))
        command = [sys.executable, "-m", "xenvbd.store_sim", self.directory, "--domains", domains]
        self.store = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log)
        assert select.select([self.store.stdout], [], [], 30)[0], f"the store does not start: {self.text()}"
        assert self.store.stdout.readline() == b"ready\n"
        self.store.stdout.close()

    def start_manager(self, **environment):
        self.manager = subprocess.Popen([sys.executable, "-c", SERVE, self.directory, self.kinds],
                                        stdout=self.log, stderr=self.log, env=os.environ | environment)
        wait(self.answers, "the manager answers")

    def answers(self):
        """Whether the manager answers, and it is this one."""
        assert self.manager.poll() is None, self.text()
        with contextlib.suppress(Error):
            return self.client.call("ping")["pid"] == self.manager.pid

    def restarted(self, before):
        """What the manager says, if it is another than the one that said `before`; else nothing."""
        with contextlib.suppress(Error):
            now = self.client.call("ping")
            return now if now["started"] != before["started"] else None

    def guest(self, domid, devid, *arguments):
        guest = GuestProcess(self, domid, devid, [str(argument) for argument in arguments])
        self.guests.append(guest)
        return guest

    def image(self, name="a.img", size=4 << 20):
        path = self.path / name
        with open(path, "wb") as file:
            file.truncate(size)
        return str(path)

    def attach(self, domid, target, vdev="xvda", **params):
        return self.client.call("attach", domain=str(domid), target=target, vdev=vdev, **params)

    def worker(self, domid):
        """The pid of a domain's worker."""
        return next(disk["pid"] for disk in self.client.call("list")["disks"] if disk["domid"] == domid)

    def text(self):
        return (self.path / "log").read_text(errors="replace")

    def close(self):
        processes = [guest.process for guest in self.guests] + [self.store, self.manager]
        for process in filter(None, processes):
            if process.poll() is None:
                process.kill()
                process.wait(30)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.log.close()
        shutil.rmtree(self.directory)

    def processes(self):
        """Processes that work in this machine's directory: workers, whoever started them."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    links = [os.readlink(link) for link in (entry / "fd").iterdir()]
                    if any(link.startswith(self.directory) for link in links):
                        found.append(int(entry.name))
        return found

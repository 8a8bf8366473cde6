"""A simulated machine with the shipped daemon on it: what `sim` and `bench` run.

A directory on tmpfs, the store's process, `xenvbd serve` as an admin would start it, and the guests' processes; all of
it ends with close(), and the directory with it."""
from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xenvbd.cli import directory
from xenvbd.cli.stream import Streams
from xenvbd.cli.tree import Tree
from xenvbd.control import Client
from xenvbd.errors import ControlError, Error
from xenvbd.hv import sim
from xenvbd.store import Store

SHM = "/dev/shm"
START_SECONDS = 20.0
LAST_LINES = 20

Event = dict[str, Any]
Take = Callable[[Event], None]


class Machine:
    """Made and running after start(); a context manager."""

    def __init__(self, streams: Streams, *, allow: Sequence[str] = (), take: Take = lambda event: None) -> None:
        """allow: the directories whose images may be served.  take: called with each trace event of the daemon."""
        self.streams, self.allow, self.take = streams, allow, take
        self.tree = Tree()
        self._end = contextlib.ExitStack()
        self.directory = self._end.enter_context(directory.own("xenvbd-sim-", SHM if os.path.isdir(SHM) else None))
        self.spec = f"sim:{self.directory}"
        self.runtime = self.directory / "run"
        self.socket = str(self.runtime / "control.sock")
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove the directory."""
        self.tree.close()
        self._end.close()

    def start(self) -> None:
        """The store, then the daemon; returns when both answer."""
        self.machine = sim.Machine.create(str(self.directory))
        store = self.tree.python("xenvbd.store_sim", str(self.directory), stdout=subprocess.DEVNULL)
        self._wait(store, "the simulated store", Path(self.machine_store(0)).exists)
        self.store = Store(self.machine_store(0))
        self.streams.watch(self.store.fileno(), self.store.dispatch)
        self.daemon = self.tree.python(
            "xenvbd.cli", "--json", "--quiet", "serve", "--config", str(self._config()), "--hypervisor", self.spec,
            "--socket", self.socket, "--trace", "xen_*", "--stop-workers",
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self.daemon.stderr is not None
        self.streams.lines(self.daemon.stderr.fileno(), self._daemon_line)
        self._wait(self.daemon, "the daemon", self._answers)

    def machine_store(self, domid: int) -> str:
        """The socket of a domain's store."""
        return str(self.directory / f"store.{domid}")

    def client(self, timeout: float = 30.0) -> Client:
        """A client of the daemon's control socket."""
        return Client(self.socket, timeout)

    def add_domain(self, domid: int, name: str) -> None:
        """A new domain, as a toolstack makes it: known to the machine and to the store, with a name."""
        self.machine.add_domain(domid)
        self.store.introduce(domid)
        self.store.write(f"/local/domain/{domid}/name", name)

    def _config(self) -> Path:
        """The daemon's configuration: only what differs from an installed one."""
        path = self.directory / "xenvbd.toml"
        allow = ", ".join(json.dumps(place) for place in self.allow)
        path.write_text(f"[targets]\nallow = [{allow}]\n")
        return path

    def _answers(self) -> bool:
        try:
            self.client(1.0).call("ping")
        except ControlError:
            return False
        return True

    def _wait(self, process: subprocess.Popen[bytes], what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self.check(process, what)
            if time.monotonic() > deadline:
                raise Error(errno.ETIMEDOUT, f"{what} did not come up in {START_SECONDS:g} s", path=self.spec)
            self.streams.wait(0.02)

    def check(self, process: subprocess.Popen[bytes] | None = None, what: str = "the daemon") -> None:
        """Raise Error, with what it last said, if the process (default: the daemon) has ended."""
        process = process or self.daemon
        if process is not None and process.poll() is not None:
            self.streams.wait(0.1)
            said = "".join(f"\n  {line}" for line in self.last)
            raise Error(errno.EIO, f"{what} ended with status {process.returncode}{said}", path=self.spec)

    def _daemon_line(self, line: bytes) -> None:
        """A record of the daemon's log: an event for the view, or a line to keep for when something goes wrong."""
        text = line.decode(errors="backslashreplace")
        try:
            record = json.loads(text)
        except ValueError:
            record = None
        if isinstance(record, dict) and "event" in record:
            self.take(record)
        else:
            self.last.append(record.get("message", text) if isinstance(record, dict) else text)
            self.take({"event": "log", "message": self.last[-1]})

"""Data planes that are killed and followed by others, over one ring whose guest knows nothing of it."""
from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

TOP = Path(__file__).parents[2]
FORKER = Path(__file__).with_name("forker.py")


class Forker:
    """forker.py, or a script like it: one child at a time.  tree: where the package is; preload: a library for it."""

    def __init__(self, tree=TOP, preload=None, script=FORKER):
        environment = os.environ | {"PYTHONPATH": str(tree)}
        if preload:
            environment["LD_PRELOAD"] = str(preload)
        self.process = subprocess.Popen([sys.executable, "-P", script], cwd=tree,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._lines = deque()
        self._rest = b""

    def order(self, **fields):
        """Fork a child; its pid."""
        self.process.stdin.write(json.dumps(fields).encode() + b"\n")
        self.process.stdin.flush()
        early = []                          # the child may be quicker than the one that forked it
        while "pid" not in (said := self.hear(20)):
            early.append(said)
        self._lines.extendleft(reversed(early))
        return said["pid"]

    def fileno(self):
        return self.process.stdout.fileno()

    def hear(self, timeout=0.0):
        """The next thing it or its child says; None if that takes too long."""
        deadline = time.monotonic() + timeout
        while not self._lines:
            if not select.select([self], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(self.fileno(), 65536)
            assert data, "the forker has died"
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(map(json.loads, lines))
        return self._lines.popleft()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


class Planes:
    """The one data plane of a ring, time and again: starts the next when one has died."""

    def __init__(self, forker, machine, guest, directory, **order):
        """order: engine, settings of every plane."""
        self.forker, self.pid, self.kills, self.starts, self.fences = forker, None, 0, 0, []
        self.serves = False                 # as far as it has been heard
        agreement = {"domid": guest.domid, "devid": 51712, "abi": guest.abi, "persistent": guest.persistent, "queues": [
            {"ring_refs": list(queue.ring_refs), "event_channel": queue.event_channel}
            for queue in guest.agreement.queues]}
        self.image, self.journal = f"{directory}/image", f"{directory}/journal"
        self._order = order | {"spec": f"sim:{machine.dir}", "agreement": agreement, "image": self.image,
                               "journal": self.journal}

    def start(self, crash=0, adopt=False):
        """A plane that dies at the crash point of this number (0: at none)."""
        self.starts += 1
        self.serves = False
        self.pid = self.forker.order(adopt=adopt, crash=crash, **self._order)

    def look(self):
        """Whether it lives.  Raises AssertionError if it refused to serve."""
        while self.pid is not None and (said := self.forker.hear()) is not None:
            assert "refused" not in said, said
            if "fence" in said:
                self.serves = True
                self._fence(said)
            if "status" in said:
                self.pid = None
        return self.pid is not None

    def serving(self, timeout=20):
        """Wait until it serves; False: it died first."""
        said = self.forker.hear(timeout)
        assert said is not None and "refused" not in said, said
        if "status" in said:
            self.pid = None
            return False
        self._fence(said)
        return True

    def _fence(self, said):
        """How long it waited for the image, and when it had it."""
        self.fences.append(said["fence"])
        self.fenced = said["fenced"]

    def end(self, number=signal.SIGKILL):
        """Kill it, or with SIGTERM let it hand over; wait for its end."""
        if self.look():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            self.kills += 1
        while self.pid is not None:
            said = self.forker.hear(20)
            assert said is not None, "the plane does not end"
            if "status" in said:
                self.pid = None

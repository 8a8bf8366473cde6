"""A tree of processes of which nothing is left when it is closed, also not what its processes left behind."""
from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

STOP_SECONDS = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Tree:
    """Child processes in process groups of their own, so that Ctrl-C reaches only us and we end them in order.

    We are their subreaper: a worker outlives its manager by design, and then becomes our child."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def python(self, module: str, *arguments: str, **how: Any) -> subprocess.Popen[bytes]:
        """Start `python -m MODULE ARGUMENTS` with this Python; how goes to Popen."""
        return self.spawn([sys.executable, "-m", module, *arguments], **how)

    def spawn(self, arguments: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        """Start a process.  It gets SIGTERM if we die without having ended it."""
        parent = os.getpid()

        def tie() -> None:
            _prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=tie, **how)
        self.processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], patience: float = STOP_SECONDS) -> int:
        """End one process, politely and then not; returns its exit status."""
        process.terminate()
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if process in self.processes:
            self.processes.remove(process)
        return status

    def close(self) -> None:
        """End every process, the youngest first; then what they left behind."""
        for process in reversed(list(self.processes)):
            self.stop(process)
        end_children(STOP_SECONDS)


def children() -> list[int]:
    """The processes whose parent we are, by birth or by adoption."""
    own = os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                # The name in parentheses may hold anything; the parent is the second field after it.
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == own:
                    found.append(int(entry.name))
    return found


def end_children(patience: float) -> None:
    """SIGTERM to every child, SIGKILL after `patience` seconds, until there is none.  A child may leave
    children in turn, and these become ours."""
    deadline = time.monotonic() + patience
    asked: set[int] = set()
    while running := _reap():
        late = time.monotonic() > deadline
        for pid in running if late else set(running) - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked.update(running)
        time.sleep(0.005)


def _reap() -> list[int]:
    """Collect the children that have ended; the others."""
    return [pid for pid in children() if os.waitpid(pid, os.WNOHANG)[0] == 0]


@contextlib.contextmanager
def stopping_signals() -> Iterator[None]:
    """Within this, SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt(signal number), once: whoever cleans up
    after the first is not interrupted by a second."""
    def stop(number: int, _: FrameType | None) -> None:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    before = {each: signal.signal(each, stop) for each in STOP_SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

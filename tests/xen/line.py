"""A byte stream on a UNIX socket (a console, a port, QEMU's monitor), kept in a file, and a shell at its other end."""
from __future__ import annotations

import os
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# Deadlines are written for a machine with nothing else to do.  What is late is not wrong, so there is time for a busy
# one as well; only a scenario that fails by hanging takes that long.
PATIENCE = float(os.environ.get("XENVBD_XEN_PATIENCE") or 4)


T = TypeVar("T")


class CommandFailed(AssertionError):
    """A command exited with a status other than 0."""

    def __init__(self, where: str, command: str, status: int, output: str):
        super().__init__(f"{where}: {command!r} exited {status}:\n{output}")
        self.status, self.output = status, output


def wait(what: str, probe: Callable[[], T], seconds: float) -> T:
    """Call probe until it says something true, and return that.  TimeoutError with what was waited for."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {seconds * PATIENCE:.0f} s: {what}")
        time.sleep(0.5)
    return found


class Line:
    """What comes is buffered and logged by a thread; until() takes it up to a pattern."""

    def __init__(self, path: Path, log: Path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._connect(path)
        self._buffer = b""
        self._gone = False
        self._news = threading.Condition()
        self.log_to(log)
        threading.Thread(target=self._pump, daemon=True).start()

    def _connect(self, path: Path) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                return self._socket.connect(str(path))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _pump(self) -> None:
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            with self._news:
                self._buffer = (self._buffer + data)[-4_000_000:]
                self._gone = not data
                self._news.notify_all()
                if not data:
                    return
                with self._log.open("ab") as log:
                    log.write(data.replace(b"\r\n", b"\n"))

    def log_to(self, path: Path) -> None:
        """Keep what comes from now on in this file."""
        self._log = path

    def send(self, text: str) -> None:
        """Type this."""
        self._socket.sendall(text.encode())

    def clear(self) -> None:
        """Forget what came so far."""
        with self._news:
            self._buffer = b""

    def until(self, pattern: str, timeout: float, take: bool = True) -> tuple[str, re.Match[bytes]]:
        """What came before the pattern, and its match.  TimeoutError with the tail of the console otherwise.

        take: what came up to there is gone then; otherwise it is left for the next until().
        """
        wanted = re.compile(pattern.encode(), re.M)
        timeout *= PATIENCE
        deadline = time.monotonic() + timeout
        with self._news:
            while not (match := wanted.search(self._buffer)):
                left = deadline - time.monotonic()
                if self._gone or left <= 0:
                    why = "the other end is gone" if self._gone else f"not in {timeout:.0f} s"
                    raise TimeoutError(f"{pattern!r}: {why}; {self._log} ends with:\n"
                                       + self._buffer[-3000:].decode(errors="replace"))
                self._news.wait(left)
            before = self._buffer[:match.start()]
            if take:
                self._buffer = self._buffer[match.end():]
        return before.decode(errors="replace").replace("\r", ""), match

    def seen(self, pattern: str) -> list[str]:
        """What matches in what came so far, which stays there; without waiting."""
        with self._news:
            return [match[0].decode() for match in re.finditer(pattern.encode(), self._buffer)]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Shell:
    """A shell that reads commands from the line: no terminal, no echo, no prompt."""

    def __init__(self, name: str, line: Line):
        self.name, self.line = name, line
        self.busy = False

    def sync(self, timeout: float) -> None:
        """Wait until the shell answers, and forget what it said before."""
        deadline = time.monotonic() + timeout * PATIENCE
        mark = secrets.token_hex(6)
        while True:
            # In two parts, so that an echo cannot be taken for the answer.
            self.line.send(f"\necho {mark[:6]}''{mark[6:]}\n")
            try:
                self.line.until(mark + "\r?\n", min(5, timeout))
                break
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
        self.run("true", timeout)

    def run(self, command: str, timeout: float = 60, check: bool = True) -> str:
        """Run a shell command; what it printed.  CommandFailed unless it exits 0 or check is off; TimeoutError."""
        self.start(command)
        return self.finish(timeout, check)

    def start(self, command: str) -> None:
        """Run a shell command and do not wait for it; finish() does.  One line: a guest's shell takes lines."""
        self._command, self._mark, self.busy = command, secrets.token_hex(6), True
        begin, end = (f"{self._mark[:6]}''{self._mark[6:]}-{word}" for word in ("begin", "end"))
        self.line.send(f"echo {begin}; sh -c {shlex.quote(command)} </dev/null 2>&1; s=$?; echo; echo {end} $s\n")

    def finish(self, timeout: float = 60, check: bool = True) -> str:
        """Wait for the end of what start() began."""
        try:
            self.line.until(f"{self._mark}-begin\r?\n", timeout)
            output, match = self.line.until(rf"\r?\n{self._mark}-end (\d+)\r?\n", timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{self.name}: {self._command!r}: {error}") from None
        self.busy = False
        if check and int(match[1]):
            raise CommandFailed(self.name, self._command, int(match[1]), output)
        return output.strip("\n")

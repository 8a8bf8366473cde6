"""Lines and events from several descriptors in one thread.

Not xenvbd.loop: that one logs a failing callback and goes on, as a daemon must; here a failure ends the command."""
from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable

Take = Callable[[bytes], None]


class Streams:
    """wait() calls back for what can be read; an exception of a callback comes out of it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, fd: int, ready: Callable[[], object]) -> None:
        """Call ready() whenever fd is readable."""
        self._selector.register(fd, selectors.EVENT_READ, ready)

    def lines(self, fd: int, take: Take, closed: Callable[[], object] | None = None) -> None:
        """Call take(line) for each line of a pipe, without its end; closed() once at the end of the pipe."""
        os.set_blocking(fd, False)
        rest = bytearray()

        def ready() -> None:
            data = os.read(fd, 1 << 16)
            if not data:
                self._selector.unregister(fd)
            rest.extend(data)
            whole = rest.split(b"\n")
            # What follows the last newline is no line yet, unless this was the end.
            rest[:] = whole.pop() if data else b""
            for line in whole:
                if line:
                    take(bytes(line))
            if not data and closed:
                closed()

        self.watch(fd, ready)

    def wait(self, seconds: float) -> None:
        """Wait at most so long for something, and do all that is there."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            if self._selector.get_map().get(key.fd) is key:
                key.data()

    def until(self, condition: Callable[[], object], seconds: float) -> bool:
        """Go on until the condition holds; False if it does not after so many seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if (left := deadline - time.monotonic()) <= 0:
                return False
            self.wait(min(left, 0.2))
        return True

    def close(self) -> None:
        """Forget every descriptor; they stay open."""
        self._selector.close()

"""The thread of a queue.

Not a threading.Thread: that one waits for ever for a thread which had no memory to begin with, and with it would wait
the worker of a whole domain.  Here what the thread is called with says so when it goes: whoever holds it last is the
thread, and it lets go of it however it ends."""
from __future__ import annotations

import _thread
import errno
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

ALIVE: set[IoThread] = set()        # those that have begun and not ended


class IoThread:
    """Runs body(report), which reports once whether it can work: 0, or a negative errno."""

    def __init__(self, body: Callable[[Callable[[int], None]], None]) -> None:
        """It runs when this returns.  Raises OSError: it cannot."""
        said: SimpleQueue[int] = SimpleQueue()
        self._ended = threading.Lock()
        self._ended.acquire()
        ALIVE.add(self)
        try:
            _thread.start_new_thread(_run, (body, said.put, _Hold(self, said)))
        except (RuntimeError, MemoryError) as exc:
            self._end(said)
            raise OSError(errno.EAGAIN, f"no thread can be started: {exc}") from exc
        rc = said.get()
        if rc < 0:
            self.join()
            raise OSError(-rc, "the thread cannot work")

    def join(self, timeout: float | None = None) -> bool:
        """Wait for its end; False: it is not there yet after so many seconds."""
        if not self._ended.acquire(timeout=-1 if timeout is None else timeout):
            return False
        self._ended.release()
        return True

    def _end(self, said: SimpleQueue[int]) -> None:
        if self in ALIVE:
            ALIVE.discard(self)
            said.put(-errno.ENOMEM)     # for who still waits to hear anything
            self._ended.release()


class _Hold:
    """What only the thread has."""

    def __init__(self, thread: IoThread, said: SimpleQueue[int]) -> None:
        self._thread, self._said = thread, said

    def __del__(self) -> None:
        self._thread._end(self._said)


def _run(body: Callable[[Callable[[int], None]], None], report: Callable[[int], None], hold: _Hold) -> None:
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)             # as a threading.Thread does
    try:
        body(report)
    except MemoryError:
        report(-errno.ENOMEM)

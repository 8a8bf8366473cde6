"""Helper threads for calls that may hang (opening an image on a dead NFS server): the loop waits with a
deadline.

A thread that hangs cannot be ended, only given up; what it brings later is disposed of.  Their number is
bounded.
"""
from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from xenvbd.errors import Error
from xenvbd.loop import Loop

MAX_THREADS = 32

T = TypeVar("T")


class Helpers:
    """The helper threads of one loop."""

    def __init__(self, loop: Loop, limit: int = MAX_THREADS) -> None:
        self.loop, self.limit, self.running = loop, limit, 0

    def run(self, what: str, work: Callable[[], T], done: Callable[[T | OSError], None], *,
            seconds: float, dispose: Callable[[T], object]) -> Callable[[], None]:
        """Call work() in a thread, and then, in the loop, done() with its result or its OSError.

        done() gets ETIMEDOUT after so many seconds, and EAGAIN if too many threads hang already; what names
        the work in both.  dispose() gets a result that came too late or that nobody wants any more.  Returns
        a function that gives up: done() is not called after it."""
        job = _Job(self, what, done, dispose)
        if self.running >= self.limit:
            message = f"{what}: {self.running} such calls hang already"
            self.loop.soon(lambda: job.finish(Error(errno.EAGAIN, message)))
        else:
            self.running += 1
            job.timer = self.loop.later(seconds, lambda: job.late(seconds))
            threading.Thread(target=job.run, args=(work,), name="helper", daemon=True).start()
        return job.give_up


class _Job(Generic[T]):

    def __init__(self, helpers: Helpers, what: str, done: Callable[[T | OSError], None],
                 dispose: Callable[[T], object]) -> None:
        self._helpers, self._what, self._dispose = helpers, what, dispose
        self._done: Callable[[T | OSError], None] | None = done
        self.timer = helpers.loop.later(0, lambda: None)
        self.timer.cancel()

    def run(self, work: Callable[[], T]) -> None:
        """In the thread."""
        result: T | OSError
        try:
            result = work()
        except OSError as exc:
            result = exc
        except Exception as exc:
            result = Error(errno.EIO, f"{self._what}: {exc!r}")
        finished = result
        self._helpers.loop.soon(lambda: self._came(finished))

    def _came(self, result: T | OSError) -> None:
        self._helpers.running -= 1
        if self._done is None and not isinstance(result, OSError):
            self._dispose(result)
        self.finish(result)

    def finish(self, result: T | OSError) -> None:
        done, self._done = self._done, None
        self.timer.cancel()
        if done is not None:
            done(result)

    def late(self, seconds: float) -> None:
        self.finish(Error(errno.ETIMEDOUT, f"{self._what}: no answer in {seconds:g} s"))

    def give_up(self) -> None:
        self._done = None
        self.timer.cancel()

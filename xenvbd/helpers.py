"""Helper threads for calls that may hang (opening an image on a dead NFS server): the loop waits with a
deadline.

A thread that hangs cannot be ended, only given up; what it brings later is disposed of.  Their number is
bounded.
"""
from __future__ import annotations

import _thread
import errno
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from xenvbd.errors import Error
from xenvbd.loop import Loop

MAX_THREADS = 32

T = TypeVar("T")


def start(body: Callable[[], None], died: Callable[[], None]) -> None:
    """Call body() in a thread.  OSError: there is none to be had; died() is called, in it, if it ends without having
    come to the end of body(), also for want of memory to begin with, where a threading.Thread keeps all waiting."""
    hold = _Hold(died)
    try:
        _thread.start_new_thread(_run, (body, hold))
    except (RuntimeError, MemoryError) as exc:
        hold.died = None
        raise OSError(errno.EAGAIN, f"no thread can be started: {exc}") from None


class _Hold:
    """What only a thread has: who lets go of it last is the thread, however it ends."""

    def __init__(self, died: Callable[[], None]) -> None:
        self.died: Callable[[], None] | None = died

    def __del__(self) -> None:
        if self.died is not None:
            self.died()


def _run(body: Callable[[], None], hold: _Hold) -> None:
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)             # as a threading.Thread does
    body()
    hold.died = None


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
            return job.give_up
        self.running += 1
        job.timer = self.loop.later(seconds, lambda: job.late(seconds))
        try:
            start(lambda: job.run(work), job.died)
        except OSError as exc:
            self.running -= 1
            error = Error(errno.EAGAIN, f"{what}: {exc.strerror}")
            self.loop.soon(lambda: job.finish(error))
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
        except MemoryError:
            result = Error(errno.ENOMEM, f"{self._what}: out of memory")
        except Exception as exc:
            result = Error(errno.EIO, f"{self._what}: {exc!r}")
        finished = result
        self._helpers.loop.soon(lambda: self._came(finished))

    def died(self) -> None:
        """In the thread, which could not even begin."""
        error = Error(errno.ENOMEM, f"{self._what}: no memory for a thread")
        self._helpers.loop.soon(lambda: self._came(error))

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

"""Helper threads for calls that may hang (opening an image on a dead NFS server): the loop waits with a
deadline.

A thread that hangs cannot be ended, only given up; what it brings later is disposed of.  So their number is bounded,
and nobody can have all of them: a disk that is realized has one of its own, in which its calls are made one after the
other (and one to wait for a dead worker's lock); of the others, for new disks, a file system or device has a quarter.
"""
from __future__ import annotations

import _thread
import errno
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from xenvbd import mounts
from xenvbd.errors import Error
from xenvbd.loop import Loop

MAX_THREADS = 32                # for disks that are not realized yet
AGAIN_SECONDS = 1.0             # after there was no thread for what must be done

log = logging.getLogger("xenvbd")
T = TypeVar("T")


def whereabouts(thread: tuple[int, int]) -> str:
    """Where a thread of ours, (identifier, the kernel's number), is just now: three lines of ours, and the kernel's
    function that it sleeps in, as far as that may be known."""
    frame = sys._current_frames().get(thread[0])
    if frame is None:
        return "its thread has ended"
    lines = traceback.extract_stack(frame)[-3:]
    try:
        sleeps = Path(f"/proc/self/task/{thread[1]}/wchan").read_text().strip("\0\n")
    except OSError:
        sleeps = ""
    ours = " < ".join(f"{Path(line.filename).name}:{line.lineno} {line.name}()" for line in reversed(lines))
    return f"{ours}, in the kernel's {sleeps}" if sleeps not in ("", "0") else ours


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
    """The helper threads of one loop.  running: how many there are."""

    def __init__(self, loop: Loop, limit: int = MAX_THREADS, place_of: Callable[[str], str] = mounts.place_of) -> None:
        """limit: of those that no disk has for itself; place_of: where a path lies, as mounts.place_of()."""
        self.loop, self.limit, self.running = loop, limit, 0
        self._place_of = place_of
        self._pool: list[_Job[Any]] = []            # that have a thread which is no disk's own
        self._waiting: list[_Job[Any]] = []         # until their place has fewer
        self._owners: set[str] = set()
        self._lanes: dict[tuple[str, str], list[_Job[Any]]] = {}    # a disk's own: the first has its thread

    def reserve(self, owner: str) -> None:
        """This disk is realized: it has a thread for itself from now on."""
        self._owners.add(owner)

    def release(self, owner: str) -> None:
        """It is gone.  What it has begun, and must be done, goes on."""
        self._owners.discard(owner)

    def run(self, what: str, work: Callable[[], T], done: Callable[[T | OSError], None], *, seconds: float,
            dispose: Callable[[T], object], owner: str = "", lane: str = "", path: str = "",
            must: bool = False) -> Callable[[], None]:
        """Call work() in a thread, and then, in the loop, done() with its result or its OSError.

        done() gets ETIMEDOUT after so many seconds, and EAGAIN if too many threads hang already; what names
        the work in both.  dispose() gets a result that came too late or that nobody wants any more.  owner: the disk
        that it is for: while another call of a realized one hangs, of the same lane, this waits for it.  path: what it
        may hang on, for a disk that is not realized.  must: it is called also if its turn comes when nobody waits for
        it any more, as a close is.  Returns a function that gives up: done() is not called after it."""
        job = _Job(self, what, work, done, dispose, must)
        if owner in self._owners or (owner, lane) in self._lanes:
            job.queue = self._lanes.setdefault((owner, lane), [])
            job.queue.append(job)
        elif len(self._pool) >= self.limit and not must:
            message = f"{what}: {len(self._pool)} such calls hang already"
            self.loop.soon(lambda: job.finish(Error(errno.EAGAIN, message)))
            return job.give_up
        else:
            job.place = self._place_of(path) if path else ""
            job.queue = self._waiting
            job.queue.append(job)
        job.timer = self.loop.later(seconds, lambda: job.late(seconds))
        self._begin_next()
        return job.give_up

    def _begin_next(self) -> None:
        """Begin whatever may have a thread now."""
        for lane in list(self._lanes.values()):
            if not lane[0].begun:
                self._begin(lane[0])
        for job in list(self._waiting):
            if len(self._pool) < self.limit and not self._is_full(job.place):
                self._waiting.remove(job)
                self._pool.append(job)
                job.queue = self._pool
                self._begin(job)

    def _is_full(self, place: str) -> bool:
        """Whether its part of the pool is used up; what has no place cannot hang."""
        return bool(place) and sum(job.place == place for job in self._pool) >= max(1, self.limit // 4)

    def _begin(self, job: _Job[Any]) -> None:
        job.begun = True
        self.running += 1
        self._start(job)

    def _start(self, job: _Job[Any]) -> None:
        try:
            start(job.run, job.died)
        except OSError as exc:
            error = Error(errno.EAGAIN, f"{job.what}: {exc.strerror}")
            self.loop.soon(lambda: self.without_thread(job, error))

    def without_thread(self, job: _Job[Any], error: Error) -> None:
        """There was none for it; what must be done is begun again until there is."""
        if job.must:
            self.loop.later(AGAIN_SECONDS, lambda: self._start(job))
        else:
            job.came(error)

    def ended(self, job: _Job[Any]) -> None:
        """Its thread is free."""
        self.running -= 1
        self.forget(job)
        self._begin_next()

    def forget(self, job: _Job[Any]) -> None:
        """It needs no thread, or none any more."""
        job.queue.remove(job)
        self._lanes = {owner: lane for owner, lane in self._lanes.items() if lane}


class _Job(Generic[T]):

    def __init__(self, helpers: Helpers, what: str, work: Callable[[], T], done: Callable[[T | OSError], None],
                 dispose: Callable[[T], object], must: bool) -> None:
        self.what, self.place, self.begun = what, "", False
        self.queue: list[_Job[Any]] = []
        self._thread: tuple[int, int] | None = None
        self._helpers, self._work, self._dispose, self.must = helpers, work, dispose, must
        self._done: Callable[[T | OSError], None] | None = done
        self.timer = helpers.loop.later(0, lambda: None)
        self.timer.cancel()

    def run(self) -> None:
        """In the thread."""
        result: T | OSError
        self._thread = threading.get_ident(), threading.get_native_id()
        try:
            result = self._work()
        except OSError as exc:
            result = exc
        except MemoryError:
            result = Error(errno.ENOMEM, f"{self.what}: out of memory")
        except Exception as exc:
            result = Error(errno.EIO, f"{self.what}: {exc!r}")
        finished = result
        self._helpers.loop.soon(lambda: self.came(finished))

    def died(self) -> None:
        """In the thread, which could not even begin."""
        error = Error(errno.ENOMEM, f"{self.what}: no memory for a thread")
        self._helpers.loop.soon(lambda: self._helpers.without_thread(self, error))

    def came(self, result: T | OSError) -> None:
        self._helpers.ended(self)
        if self._done is None and not isinstance(result, OSError):
            self._dispose(result)
        self.finish(result)

    def finish(self, result: T | OSError) -> None:
        done, self._done = self._done, None
        self.timer.cancel()
        if done is not None:
            done(result)

    def late(self, seconds: float) -> None:
        if self._thread is not None:
            log.warning("%s: no answer in %g s: its thread is at %s", self.what, seconds, whereabouts(self._thread))
        self._drop()
        if self.begun or not self.place:
            self.finish(Error(errno.ETIMEDOUT, f"{self.what}: no answer in {seconds:g} s"))
        else:
            message = f"{self.what}: as many calls as may be at once hang already on {self.place}"
            self.finish(Error(errno.EAGAIN, message))

    def give_up(self) -> None:
        self._drop()
        self._done = None
        self.timer.cancel()

    def _drop(self) -> None:
        """Nobody waits for it: unless it must be done all the same, it need not begin."""
        if not self.begun and not self.must and self in self.queue:
            self._helpers.forget(self)

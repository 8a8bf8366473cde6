"""The thread of a queue.

Not a threading.Thread: that one waits for ever for a thread which had no memory to begin with, and with it would wait
the worker of a whole domain.  Here what the thread is called with says so when it goes: whoever holds it last is the
thread, and it lets go of it however it ends.

A thread with an io_uring that was kept (disk.rings) does not end with its queue: it waits for the next one."""
from __future__ import annotations

import _thread
import errno
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from xenvbd.disk import rings

ALIVE: set[IoThread] = set()        # those that have begun and not ended
WAITING: list[tuple[list[int], SimpleQueue[list[Any]]]] = []    # threads without a queue: for which kinds; their work


class IoThread:
    """Runs body(report), which reports once whether it can work: 0, or a negative errno."""

    def __init__(self, body: Callable[[Callable[[int], None]], None], kind: int = -1) -> None:
        """It runs when this returns.  kind: of its ring (rings.kind_of).  Raises OSError: it cannot."""
        said: SimpleQueue[int] = SimpleQueue()
        self._ended = threading.Lock()
        self._ended.acquire()
        ALIVE.add(self)
        try:
            _begin(kind, [body, said.put, _Hold(self, said)])
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


def _begin(kind: int, work: list[Any]) -> None:
    """In a thread that waits for this, or in a new one."""
    for waiting in list(WAITING):
        if any(0 <= kind <= other for other in waiting[0]) and _taken(waiting):
            waiting[1].put(work)
            return
    _thread.start_new_thread(_run, (work,))


def _taken(waiting: tuple[list[int], SimpleQueue[list[Any]]]) -> bool:
    """Whether nobody else, who starts another disk at the same time, has taken this one."""
    try:
        WAITING.remove(waiting)
    except ValueError:
        return False
    return True


def _run(work: list[Any]) -> None:
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)             # as a threading.Thread does
    while True:
        body, report = work[:2]
        try:
            body(report)
        except MemoryError:
            report(-errno.ENOMEM)
        if not (kinds := rings.kinds_of_thread()):
            return
        inbox: SimpleQueue[list[Any]] = SimpleQueue()
        WAITING.append((kinds, inbox))  # if there is no memory for this the thread ends, and its ring is lost
        rings.wait_with()
        del body, report
        work.clear()                    # whoever waits for the end of this hears of it here
        work = inbox.get()

"""The event loop of manager and worker: descriptors, timers and calls from helper threads, in one thread.

Callbacks only: a device waits as a state, not as a suspended call, so nothing here needs coroutines.  A
callback that raises is logged and counted; the loop goes on, since one device's fault must not stop the
others.  Without memory nobody knows what a callback has left undone: see on_exhausted.
"""
from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable

Callback = Callable[[], object]
log = logging.getLogger(__name__)

LONGEST_WAIT = 86400.0          # seconds in one call: epoll_wait() has a limit
PRUNE = 64                      # timers, from which on those that were cancelled are looked for
ACCEPT_SECONDS = 1.0            # until a listener is looked at again, when there was no descriptor for a connection


class Timer:
    """A call to come.  cancel() may be called at any time, also after it has run."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Everything but soon() and stop() belongs to the thread that calls run()."""

    def __init__(self) -> None:
        self.failures = 0
        self.on_exhausted: Callback = lambda: None      # called when there was no memory for a callback
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ, (self._woken, None))
        self._timers: list[tuple[float, int, Timer]] = []
        self._prune_at = PRUNE
        self._order = itertools.count()
        self._soon: deque[Callback] = deque()
        self._stopped = False

    def read(self, fd: int, callback: Callback | None) -> None:
        """Call back while fd is readable (level triggered); None: no longer."""
        self._change(fd, 0, callback)

    def write(self, fd: int, callback: Callback | None) -> None:
        """Call back while fd is writable; None: no longer."""
        self._change(fd, 1, callback)

    def forget(self, fd: int) -> None:
        """Watch fd no longer: to be called before it is closed."""
        self._change(fd, 0, None)
        self._change(fd, 1, None)

    def accept(self, listener: socket.socket, accepted: Callable[[socket.socket], object]) -> None:
        """Call accepted(sock) for each connection, until the listener is forgotten and closed.  Out of descriptors or
        memory it rests for a while: a listener stays readable, and this would spin."""
        def ready() -> None:
            try:
                sock, _ = listener.accept()
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    self.forget(listener.fileno())
                    self.later(ACCEPT_SECONDS, again)
                return
            accepted(sock)

        def again() -> None:
            if listener.fileno() >= 0:
                self.read(listener.fileno(), ready)

        again()

    def later(self, seconds: float, callback: Callback) -> Timer:
        timer = Timer(time.monotonic() + seconds, callback)
        if len(self._timers) >= self._prune_at:
            self._prune()
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def _prune(self) -> None:
        """Let go of the timers that were cancelled: their time may be far away, and a guest can have many made."""
        self._timers = [entry for entry in self._timers if entry[2].callback is not None]
        heapq.heapify(self._timers)
        self._prune_at = max(PRUNE, 2 * len(self._timers))

    def soon(self, callback: Callback) -> None:
        """Call back in the loop's next round.  The one way in from another thread or a signal handler."""
        self._soon.append(callback)
        if self._wake < 0:
            return                                      # the loop is closed: a helper thread that came too late
        with contextlib.suppress(BlockingIOError):      # the counter is full: it is awake anyhow
            os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Let run() return after the callbacks of this round."""
        self.soon(self._stop)

    def run(self) -> None:
        self._stopped = False
        while not self._stopped:
            self.run_once()

    def run_once(self, timeout: float | None = None) -> None:
        """Wait for something to do, at most timeout seconds, and do all that is due."""
        for key, mask in self._selector.select(self._patience(timeout)):
            reader, writer = key.data
            # An earlier callback may have closed the descriptor, and another may have its number by now.
            if mask & selectors.EVENT_READ and reader and self._current(key):
                self._call(reader)
            if mask & selectors.EVENT_WRITE and writer and self._current(key):
                self._call(writer)
        self._run_timers()
        for _ in range(len(self._soon)):
            self._call(self._soon.popleft())

    def close(self) -> None:
        self._selector.close()
        wake, self._wake = self._wake, -1
        os.close(wake)

    def _change(self, fd: int, which: int, callback: Callback | None) -> None:
        key = self._selector.get_map().get(fd)
        callbacks = list(key.data) if key else [None, None]
        callbacks[which] = callback
        events = (selectors.EVENT_READ * bool(callbacks[0])) | (selectors.EVENT_WRITE * bool(callbacks[1]))
        if key and events:
            self._selector.modify(fd, events, tuple(callbacks))
        elif key:
            self._selector.unregister(fd)
        elif events:
            self._selector.register(fd, events, tuple(callbacks))

    def _current(self, key: selectors.SelectorKey) -> bool:
        now = self._selector.get_map().get(key.fd)
        return now is not None and now.data == key.data

    def _patience(self, timeout: float | None) -> float | None:
        if self._soon:
            return 0.0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return timeout
        wait = min(max(0.0, self._timers[0][0] - time.monotonic()), LONGEST_WAIT)
        return wait if timeout is None else min(wait, timeout)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._call(timer.callback)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except MemoryError:
            self.failures += 1
            log.error("out of memory")
            self.on_exhausted()
        except Exception:
            self.failures += 1
            log.exception("a callback failed; the loop goes on")

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _stop(self) -> None:
        self._stopped = True

"""The manager's side of the workers: start one for a domain, or find one that outlived an earlier manager.

Calls are asynchronous: they are sent at once and their callback gets the reply, or an error when the worker
dies. A worker's death is noticed through its pidfd, so also if its connection is held open elsewhere.

A guest may have taken its worker over, so a worker's word is not believed: it is cut to what can be logged and shown,
it comes a few messages at a time, and a worker that breaks the protocol is killed.

To start Python takes longer than all else of a recovery, so one worker waits, started and of no domain yet: the spare.
"""
from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from xenvbd import __version__, logs
from xenvbd.errors import Error, from_json
from xenvbd.loop import Loop, Timer
from xenvbd.memory import Allowance
from xenvbd.process import Process, connect, environment, is_zombie, reap
from xenvbd.runtime import Runtime, discard
from xenvbd.trace import Limiter, quote
from xenvbd.wire import PROTOCOL, Message, Wire, close_all, peer

RECONNECT_SECONDS = 0.5
STOP_AGAIN_SECONDS = 1.0
IDLE_SECONDS = 10.0                 # a worker without a disk and a manager lives on for so long
MAX_DEATHS = 5                      # of a domain's worker in a minute; then it is started again less often
PAUSE_SECONDS = 2.0
SPARE_SECONDS = 1.0                 # after a worker has begun: it needs the processors first
HAND_OVER_SECONDS = 5.0             # for a worker that is replaced; a disk whose storage hangs must not keep the others
MESSAGES_A_TURN = 64                # of one worker, before the others have theirs
MAX_TEXT = 500                      # characters of anything that a worker says
COMMAND = (sys.executable, "-P", "-m", "xenvbd.worker")

log = logging.getLogger("xenvbd.workers")
Result = dict[str, Any] | OSError
Done = Callable[[Result], None]


class WorkerGone(Error):
    """The worker died before it answered, or its connection did."""


class Worker:
    """One worker process as the manager sees it.  version: of xenvbd; empty if it has not said it yet; told: what it
    said of each disk's plane when an earlier manager's disks were taken over; allow: as memory.Allowance.allow."""

    def __init__(self, loop: Loop, domid: int, pid: int, path: str, sock: socket.socket,
                 child: subprocess.Popen[bytes] | None = None, *, limiter: Limiter | None = None) -> None:
        """child: ours to reap; None: it was started by an earlier manager.  limiter: of what is logged of it."""
        self.loop, self.domid, self.pid, self._path, self._child = loop, domid, pid, path, child
        self.alive = True
        self.leaving = False                # it was told to; its end is no failure
        self._limiter = limiter or Limiter()
        self.told: dict[str, dict[str, Any]] = {}
        self.version = __version__ if child is not None else ""
        self.allow = Allowance(pid).allow
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self.on_exit: Callable[[Worker], None] = lambda worker: None
        self._calls: dict[int, Done] = {}
        self._numbers = itertools.count(1)
        self._wire: Wire | None = None
        self._pidfd = os.pidfd_open(pid)
        try:
            loop.read(self._pidfd, self._exited)
            self._use(sock)
        except OSError:
            loop.forget(self._pidfd)
            os.close(self._pidfd)
            raise

    def call(self, verb: str, done: Done, fds: Sequence[int] = (), **params: Any) -> None:
        """Ask; done gets the result or an OSError, later.  fds are closed here, sent or not."""
        if self._wire is None:
            close_all(fds)
            self._fail(done, self._gone())
            return
        number = next(self._numbers)
        self._calls[number] = done
        try:
            self._wire.send({"call": number, "verb": verb, "protocol": PROTOCOL, **params}, fds)
        except OSError as exc:
            del self._calls[number]
            # It has hung up, and may live: not EPIPE, which says that it is gone.
            number = errno.ECONNRESET if exc.errno == errno.EPIPE else exc.errno or errno.EIO
            self._fail(done, Error(number, f"worker {self.domid}: {exc.strerror}"))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, if it lives: SIGTERM lets it hand over."""
        if not self.alive or self._pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return                          # its end is about to be noticed
        except OSError as exc:
            log.error("worker %d (process %d) cannot be sent signal %d: %s", self.domid, self.pid, number, exc)
            self.loop.later(RECONNECT_SECONDS, lambda: self.kill(number))

    def look(self) -> None:
        """Notice that it was killed and cannot end, for a thread of it is still with a storage that hangs: the kernel
        tells nobody.  It counts as dead then.  What it had open it keeps: the images' locks, the guest's ports."""
        if self.alive and self._pidfd >= 0 and is_zombie(self.pid):
            log.warning("worker %d (process %d) was killed, and ends when its storage answers", self.domid, self.pid)
            self.alive = False
            self._disconnect()
            self.on_exit(self)

    def close(self) -> None:
        """Leave the worker alone: it goes on serving.  Calls that wait for a reply are forgotten."""
        self._calls.clear()
        self._disconnect()
        if self._pidfd >= 0:
            self.loop.forget(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._child is not None and self._child.poll() is None:
            self._child.returncode = 0      # not ours to wait for any more
        self._child = None

    def _use(self, sock: socket.socket) -> None:
        wire = Wire(sock)
        wire.on_pending = lambda waiting: self.loop.write(wire.fileno(), self._flush if waiting else None)
        try:
            self.loop.read(wire.fileno(), self._readable)
        except OSError:
            wire.close()
            raise
        self._wire = wire

    def _disconnect(self) -> None:
        if self._wire is not None:
            self.loop.forget(self._wire.fileno())
            self._wire.close()
            self._wire = None
        calls, self._calls = self._calls, {}
        for done in calls.values():
            done(self._gone())

    def _readable(self) -> None:
        for _ in range(MESSAGES_A_TURN):
            try:
                if self._wire is None or (message := self._wire.receive()) is None:
                    return
                told = self._heard(message)
            except (EOFError, OSError) as exc:
                if not isinstance(exc, OSError) or exc.errno != errno.EPROTO:
                    self._lost(exc)
                    return
                self._limiter.log(log, logging.ERROR, "worker %d breaks the protocol and is killed: %s", self.domid,
                                  exc)
                self.kill()
                self._disconnect()
                return
            told()                          # here, for what this raises is no fault of the worker's

    def _flush(self) -> None:
        try:
            if self._wire is not None:
                self._wire.flush()
        except OSError as exc:
            self._lost(exc)

    def _heard(self, message: Message) -> Callable[[], None]:
        """What is to be called for a message.  Error (EPROTO): it is none of ours."""
        message.close()                     # a worker has no descriptor to give
        body = _told(message.body)
        number = body.get("reply")
        if "event" in body:
            return lambda: self.on_event(body)
        if isinstance(number, int) and number in self._calls:
            result, done = _result(body), self._calls.pop(number)
            return lambda: done(result)
        return lambda: None

    def _lost(self, exc: Exception) -> None:
        """The connection is gone; mostly the process too, which the pidfd tells.  Else find it again."""
        self._limiter.log(log, logging.INFO, "worker %d: the connection is lost: %s", self.domid, exc)
        self._disconnect()
        self.loop.later(RECONNECT_SECONDS, self._reconnect)

    def _reconnect(self) -> None:
        if not self.alive or self._wire is not None or self._pidfd < 0:
            return
        try:
            self._use(connect(self._path))
        except OSError:
            self.loop.later(RECONNECT_SECONDS, self._reconnect)

    def _exited(self) -> None:
        was_given_up, self.alive = not self.alive, False
        status = self._child.wait() if self._child is not None else reap(self.pid)
        level = logging.INFO if status == 0 or self.leaving else logging.WARNING
        ending = "ended" if status is None else f"ended with status {status}"
        self._limiter.log(log, level, "worker %d (process %d) %s", self.domid, self.pid, ending)
        self._disconnect()
        self.close()
        if not was_given_up:
            self.on_exit(self)

    def _gone(self) -> WorkerGone:
        return WorkerGone(errno.EPIPE, f"the worker of domain {self.domid} (process {self.pid}) is gone")

    def _fail(self, done: Done, exc: OSError) -> None:
        """Never from within call(): the caller need not expect its callback before call() returns."""
        self.loop.soon(lambda: done(exc))


class Workers:
    """All workers of a manager, by domain."""

    def __init__(self, loop: Loop, runtime: Runtime, hypervisor: str, backend_domid: int,
                 command: Sequence[str] = COMMAND, *, spare: bool = False) -> None:
        """hypervisor: as for hv.open(), passed on to the workers; spare: keep one in reserve."""
        self.loop, self.runtime = loop, runtime
        self.by_domid: dict[int, Worker] = {}
        self._leaving: set[Worker] = set()
        self._wants_spare = spare
        self._spare: Process | None = None
        self._spare_timer: Timer | None = None
        self._deaths: dict[int, deque[float]] = {}      # when, by domain: a guest must not have us start them on and on
        self._limiters: dict[int, Limiter] = {}         # by domain: nor fill the log with their ends
        self.idle_seconds = IDLE_SECONDS
        self.on_event: Callable[[int, dict[str, Any]], None] = lambda domid, event: None
        self.on_exit: Callable[[Worker], None] = lambda worker: None
        self._command = [*command, "--hypervisor", hypervisor, "--backend-domid", str(backend_domid),
                         "--runtime", str(runtime.path)]

    def get(self, domid: int) -> Worker:
        """The domain's worker: ours, one that outlived an earlier manager, or a new one.  Raises OSError."""
        worker = self.by_domid.get(domid) or self.find(domid) or self._spawn(domid)
        return worker

    @property
    def running(self) -> int:
        """How many there are, also those that are about to end."""
        return len(self.by_domid) + len(self._leaving)

    def find(self, domid: int) -> Worker | None:
        """The worker that an earlier manager left for this domain, if it lives; if not, its socket is removed, which it
        could not do itself.  Error (EAGAIN): it takes no connections."""
        path = self.runtime.worker(domid)
        try:
            sock = connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            discard(path)
            return None
        except BlockingIOError:             # earlier managers have filled its backlog
            raise Error(errno.EAGAIN, f"the worker of domain {domid} takes no connections: kill it, and another takes "
                        "its disks over", path=path) from None
        pid, _ = peer(sock)
        log.info("worker %d (process %d) found", domid, pid)
        return self._keep(Worker(self.loop, domid, pid, path, sock, limiter=self._limiter(domid)))

    def find_all(self) -> list[Worker]:
        """Every worker that an earlier manager left, but for those that take no connections."""
        found = []
        for domid in self.runtime.workers():
            try:
                worker = None if domid in self.by_domid else self.find(domid)
            except Error as exc:
                log.error("%s", exc)
                continue
            found += [worker] if worker is not None else []
        return found

    def dismiss(self, domid: int) -> None:
        """Let a domain's worker end: to be called when its last disk has gone.  The next disk gets a new one."""
        self._deaths.pop(domid, None)
        self._limiters.pop(domid, None)
        if worker := self.by_domid.pop(domid, None):
            self._leaving.add(worker)
            if not os.path.exists(self.runtime.worker(domid)):
                # It has not begun yet, and must not take the next one's place when it does.
                worker.leaving = True
                worker.kill()
            discard(self.runtime.worker(domid))         # nobody is to find it any more
            self._stop(worker)

    def replace(self, domid: int) -> Worker:
        """Let a domain's worker hand over and end; whoever has a disk there asks for the next.  Returns the old one.
        Error (ENOENT): the domain has none."""
        worker = self.by_domid.pop(domid, None)
        if worker is None:
            raise Error(errno.ENOENT, f"domain {domid} has no worker: nothing of it is served")
        log.info("worker %d (process %d, xenvbd %s) is to hand over", domid, worker.pid, worker.version or "unknown")
        discard(self.runtime.worker(domid))             # whoever needs one from now on gets the next
        self._leaving.add(worker)
        worker.leaving = True
        worker.kill(signal.SIGTERM)
        self.loop.later(HAND_OVER_SECONDS, worker.kill)
        return worker

    def _stop(self, worker: Worker) -> None:
        def stopped(result: Result) -> None:
            if isinstance(result, OSError) and worker.alive:
                self.loop.later(STOP_AGAIN_SECONDS, lambda: self._stop(worker))     # it still drains

        if worker in self._leaving:
            worker.call("stop", stopped)

    def close(self) -> None:
        """Leave all workers alone: they go on serving."""
        for worker in [*self.by_domid.values(), *self._leaving]:
            worker.close()
        self.by_domid.clear()
        self._leaving.clear()
        if self._spare_timer is not None:
            self._spare_timer.cancel()
        if self._spare is not None:
            self._spare.end()
            self._spare = None

    def _spawn(self, domid: int) -> Worker:
        deaths = self._deaths.get(domid, deque())
        now = time.monotonic()
        if len(deaths) == MAX_DEATHS and now - deaths[0] < 60 and now - deaths[-1] < PAUSE_SECONDS:
            raise Error(errno.EAGAIN, f"the worker of domain {domid} died {MAX_DEATHS} times in a minute: "
                        "not started again yet")
        process = self._take_spare(domid) or self._launch("--domid", str(domid))
        try:
            worker = Worker(self.loop, domid, process.child.pid, self.runtime.worker(domid), *process,
                            limiter=self._limiter(domid))
        except OSError:
            process.end()
            discard(self.runtime.worker(domid))     # it may have come so far
            raise
        self._limiter(domid).log(log, logging.INFO, "worker %d (process %d) started", domid, worker.pid)
        return self._keep(worker)

    def _limiter(self, domid: int) -> Limiter:
        return self._limiters.setdefault(domid, Limiter())

    def _launch(self, *options: str) -> Process:
        """Start a worker; without --domid it waits until it is told its domain."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                child = subprocess.Popen(
                    [*self._command, *options, "--fd", str(theirs.fileno()), "--idle", str(self.idle_seconds),
                     "--log", logs.word()],
                    pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    start_new_session=True, cwd="/", env=environment())
        except OSError:
            ours.close()
            raise
        Allowance(child.pid).begin()
        return Process(ours, child)

    def _take_spare(self, domid: int) -> Process | None:
        """The spare, told its domain; None if there is none that lives."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.child.poll() is None:
            with contextlib.suppress(OSError):
                spare.sock.send(json.dumps({"domid": domid}).encode())
                return spare
        if spare is not None:
            spare.end()
        return None

    def _make_spare(self) -> None:
        """Start the next spare."""
        self._spare_timer = None
        if self._spare is None and self.by_domid:
            try:
                self._spare = self._launch()
            except OSError as exc:
                log.warning("no spare worker can be started: %s", exc)

    def _keep(self, worker: Worker) -> Worker:
        if self._wants_spare and self._spare_timer is None:
            self._spare_timer = self.loop.later(SPARE_SECONDS, self._make_spare)
        worker.on_event = lambda event: self.on_event(worker.domid, event)
        worker.on_exit = self._exited
        self.by_domid[worker.domid] = worker
        return worker

    def _exited(self, worker: Worker) -> None:
        if self.by_domid.get(worker.domid) is worker:
            del self.by_domid[worker.domid]
            if not worker.leaving:
                self._deaths.setdefault(worker.domid, deque(maxlen=MAX_DEATHS)).append(time.monotonic())
        if worker.domid not in self.by_domid:
            discard(self.runtime.worker(worker.domid))
        self._leaving.discard(worker)
        self.on_exit(worker)


def _told(value: Any, depth: int = 3) -> Any:
    """What a worker said, as far as it is numbers, texts that a log or a terminal can be given, and lists and
    objects of those, a few deep."""
    if isinstance(value, str):
        return value if value.isprintable() and len(value) <= MAX_TEXT else quote(value, MAX_TEXT)
    if isinstance(value, dict) and depth:
        return {_told(name): _told(each, depth - 1) for name, each in value.items()}
    if isinstance(value, list) and depth:
        return [_told(each, depth - 1) for each in value]
    return value if isinstance(value, int | float) else None


def _result(body: dict[str, Any]) -> Result:
    """What a reply says; OSError if it says nothing that could be one."""
    error, result = body.get("error"), body.get("result") or {}
    if isinstance(error, dict):
        number = error.get("errno")
        return from_json(error | {"errno": number if isinstance(number, int) and 0 < number < 4096 else errno.EIO})
    if not isinstance(result, dict):
        raise Error(errno.EPROTO, "a reply that is neither a result nor an error")
    return result

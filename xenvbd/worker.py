"""The worker: the process that serves the disks of one guest domain.

    python -m xenvbd.worker --fd N --hypervisor SPEC --backend-domid B [--domid D] --runtime DIR --idle SECONDS
        [--log FORM:LEVEL]

It has no xenstore and opens no target: rings, ports and descriptors come from the manager, over a
SOCK_SEQPACKET socket (wire.py).  It outlives its manager: the end of the connection is not its end, a later
manager connects to worker-D.sock in the runtime directory and goes on.  It ends when it is told to, or when
it has neither a disk nor a manager for a while.  At SIGTERM it hands its rings over: it answers what the storage is
doing and leaves all else in the journals, for the worker that the manager starts next.  It is locked down (sandbox)
before it hears of any disk.

    manager to worker   {"call": N, "verb": connect | disconnect | resume | list | ping | stop, ...} and
    descriptors worker to manager   {"reply": N, "result": {...}} or {"reply": N, "error": {...}}
                        {"event": kind, "disk": key, "detail": TEXT}

Without --domid it is a spare: it waits, all loaded, until {"domid": D} comes, or the manager's end.

The main thread never waits for anything of one disk: a helper thread opens and starts it (planes.py); it is told to
stop and says so when it has; and what may block after that (closing the image) is a helper thread's again.  What is
ordered for a disk while it is being started is carried out afterwards, in its order.
"""
from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xenvbd import __version__, hv, logs, sandbox
from xenvbd.dataplane import PlaneEvent
from xenvbd.disk import rings
from xenvbd.errors import Error, to_json
from xenvbd.features import Agreement
from xenvbd.helpers import start
from xenvbd.hv.ops import Hypervisor
from xenvbd.journal import boot_id
from xenvbd.loop import Loop, Timer
from xenvbd.planes import Finish, Plane
from xenvbd.runtime import Runtime
from xenvbd.trace import Limiter
from xenvbd.wire import MAX_QUEUE, PROTOCOL, Message, Wire

ENTRIES = 33                        # that a ring of one page needs of an io_uring: its requests, and a flush
MAX_SPARE = 1024                    # bytes of what a spare is told
CLOSE_AGAIN_SECONDS = 1.0           # after there was no thread to close a target in

log = logging.getLogger("xenvbd.worker")


class Worker:
    """The main thread: messages in, planes, events out."""

    def __init__(self, loop: Loop, hypervisor: Hypervisor, domid: int, listener: socket.socket,
                 idle_seconds: float) -> None:
        self.loop, self.hypervisor, self.domid = loop, hypervisor, domid
        self.planes: dict[str, Plane] = {}
        self._wire: Wire | None = None
        self._idle: Timer | None = None
        self._leaving = False
        self._pid = os.getpid()                         # now: later it cannot be asked for
        self._patience = idle_seconds
        self._limiter = Limiter()                       # of what a guest can have logged
        self._verbs: dict[str, Callable[[Message, Finish], None]] = {
            "connect": self._connect, "disconnect": self._disconnect, "resume": self._resume,
            "list": self._list, "ping": self._ping, "stop": self._stop}
        loop.accept(listener, self.adopt)
        self._watch_idleness()

    def adopt(self, sock: socket.socket) -> None:
        """Serve this manager from now on; the one before is gone, or is told by the end of its connection."""
        self._drop_manager()
        for plane in self.planes.values():
            plane.orphaned = not plane.started      # nobody will hear of it: the new one orders it again
        wire = Wire(sock)
        self._wire = wire
        wire.on_pending = lambda waiting: self.loop.write(wire.fileno(), wire.flush if waiting else None)
        self.loop.read(wire.fileno(), self._readable)
        self._watch_idleness()

    def leave(self) -> None:
        """Hand every ring over, and end."""
        self._leaving = True
        for plane in self._started_planes():
            self._stop_plane(plane, lambda result: None, hand_over=True)
        self._leave_if_done()

    def _drop_manager(self) -> None:
        if self._wire is not None:
            self.loop.forget(self._wire.fileno())
            self._wire.close()
            self._wire = None
        self._watch_idleness()

    def _readable(self) -> None:
        try:
            while self._wire is not None and (message := self._wire.receive()):
                self._handle(message)
        except (EOFError, OSError) as exc:
            log.info("worker %d: the manager is gone: %s", self.domid, exc)
            self._drop_manager()

    def _handle(self, message: Message) -> None:
        self._carry_out(message, self._finisher(message.body.get("call")))

    def _carry_out(self, message: Message, finish: Finish) -> None:
        body = message.body
        plane = self.planes.get(str(body.get("disk")))
        if plane is not None and (plane.orphaned or plane.later or not plane.started):
            later = Message(body, message.take_fds())
            plane.later.append(lambda: self._carry_out(later, finish))
            return
        try:
            verb = self._verbs.get(str(body.get("verb")))
            if verb is None:
                raise Error(errno.EOPNOTSUPP, f"a worker does not know {body.get('verb')!r}")
            verb(message, finish)
        except OSError as exc:
            message.close()         # first: who has the answer may count on it
            finish(exc)
        except Exception as exc:
            message.close()
            finish(Error(errno.EPROTO, f"the worker cannot {body.get('verb')}: {exc!r}"))
            raise
        finally:
            message.close()

    def _finisher(self, number: Any) -> Finish:
        """Sends the reply to a call, to whichever manager made it."""
        wire = self._wire

        def finish(result: dict[str, Any] | OSError) -> None:
            body = {"error": to_json(result)} if isinstance(result, OSError) else {"result": result}
            if wire is self._wire:
                self._send({"reply": number, **body})

        return finish

    def _send(self, body: dict[str, Any]) -> None:
        if self._wire is None:
            return
        try:
            self._wire.send(body)
        except OSError as exc:
            log.warning("worker %d: the manager does not take messages: %s", self.domid, exc)
            self._drop_manager()

    def _connect(self, message: Message, finish: Finish) -> None:
        """Open the target's engine and start its data plane.  The descriptors: the image if there is one, and its
        vbd's fence file if it is written to, then a journal for each queue, then the counters of each, then the
        event-channel handle of each."""
        body = message.body
        if body.get("protocol") != PROTOCOL:
            raise Error(errno.EPROTO, f"the worker of domain {self.domid} is of xenvbd {__version__}, and not of its "
                        "manager's version: `xenvbd restart --manager`, if that is the older one, and then `xenvbd "
                        "restart --worker DISK` with a disk of that domain bring both to what is installed")
        agreement = Agreement.from_json(body["agreement"])
        queues, images = len(agreement.queues), int(body["image"])
        if body["disk"] in self.planes or self._leaving:
            raise Error(errno.EBUSY, "the disk is connected already, or the worker is leaving")
        if len(message.fds) != images + 3 * queues:
            raise Error(errno.EPROTO, f"{len(message.fds)} descriptors for {queues} queues")
        options, needed = self._options(body, agreement)
        plane = Plane(body["disk"], needed)
        self._start(plane, Message(body, message.take_fds()), options, finish)
        self.planes[plane.key] = plane
        self._watch_idleness()

    def _start(self, plane: Plane, message: Message, options: dict[str, Any], finish: Finish) -> None:
        """Have it opened where that may take its time."""
        def started(failure: OSError | None) -> None:
            self.loop.soon(lambda: self._started(plane, failure, finish))

        def died() -> None:
            message.close()
            started(Error(errno.ENOMEM, "no memory for a thread"))

        try:
            start(lambda: started(plane.open(self.hypervisor, message, options)), died)
        except OSError:
            message.close()
            raise

    def _started(self, plane: Plane, failure: OSError | None, finish: Finish) -> None:
        if failure is not None:
            self._gone(plane)
            finish(failure)
            self._catch_up(plane)
            return
        plane.started = True
        self.loop.read(plane.plane.events_fd, lambda: self._events(plane))
        finish(plane.told() | ({"anew": plane.plane.anew} if plane.plane.anew else {}))
        if self._leaving or plane.orphaned:
            self._stop_plane(plane, lambda result: None, hand_over=True)
        else:
            self._catch_up(plane)

    def _catch_up(self, plane: Plane) -> None:
        """Carry out what was ordered meanwhile."""
        later, plane.later = plane.later, []
        for order in later:
            order()

    def _options(self, body: dict[str, Any], agreement: Agreement) -> tuple[dict[str, Any], int]:
        """How to open the target: with threads, if there are not so many rings left as it has queues; and how many
        rings it will take."""
        options, needed = dict(body["open"]), len(agreement.queues)
        if not (rings.kept() and body["image"] and options["engine"] in ("auto", "uring")):
            return options, 0
        promised = sum(plane.rings for plane in self.planes.values() if not plane.started)
        left = max(0, rings.left(ENTRIES << agreement.ring_page_order) - promised)
        if left >= needed:
            return options, needed
        self._limiter.log(log, logging.WARNING, "worker %d: %s is served by threads: %d io_urings are left, and it has "
                          "%d queues", self.domid, body["name"], left, needed)
        return options | {"engine": "threads"}, 0

    def _disconnect(self, message: Message, finish: Finish) -> None:
        """Drain and stop a disk's plane, then let go of its target; the reply comes when the image is
        unlocked.

        abandon: let go of the ring at once, for there is nobody to answer."""
        self._stop_plane(self._plane(message), finish, abandon=bool(message.body.get("abandon")))

    def _resume(self, message: Message, finish: Finish) -> None:
        """Try again what the plane holds, after ENOSPC say."""
        self._plane(message).plane.resume()
        finish({})

    def _list(self, message: Message, finish: Finish) -> None:
        told = {plane.key: plane.told() for plane in self._started_planes()}
        finish({"disks": {key: self.planes[key].plane.state for key in told}, "version": __version__,
                **{name: {key: each[name] for key, each in told.items()} for name in ("engine", "persistent")}})

    def _ping(self, message: Message, finish: Finish) -> None:
        finish({"pid": self._pid, "domid": self.domid, "version": __version__})

    def _stop(self, message: Message, finish: Finish) -> None:
        """End, if there is nothing left to serve."""
        if self.planes:
            raise Error(errno.EBUSY, f"{len(self.planes)} disks are being served")
        finish({})
        self.loop.stop()

    def _started_planes(self) -> list[Plane]:
        return [plane for plane in self.planes.values() if plane.started]

    def _plane(self, message: Message) -> Plane:
        key = message.body["disk"]
        if key not in self.planes:
            raise Error(errno.ENOENT, f"no plane serves {key}")
        return self.planes[key]

    def _stop_plane(self, plane: Plane, finish: Finish, *, abandon: bool = False, hand_over: bool = False) -> None:
        plane.stopping.append(finish)
        plane.plane.stop_begin(abandon=abandon, hand_over=hand_over)

    def _events(self, plane: Plane) -> None:
        for event in plane.plane.events():
            if event.kind == "stopped":
                self._stopped(plane)
            elif self._wire is not None and self._wire.pending < MAX_QUEUE // 2:    # the rest is for replies
                self._send(_event(plane.key, event))

    def _stopped(self, plane: Plane) -> None:
        """The I/O threads have ended."""
        self.loop.forget(plane.plane.events_fd)
        self._close(plane)

    def _close(self, plane: Plane) -> None:
        """Close the target where that may take its time."""
        def again() -> None:
            self.loop.later(CLOSE_AGAIN_SECONDS, lambda: self._close(plane))

        def destroy() -> None:
            result: dict[str, Any] | OSError = {}
            try:
                plane.destroy()
            except OSError as exc:
                result = exc
            self.loop.soon(lambda: self._destroyed(plane, result))

        try:
            start(destroy, lambda: self.loop.soon(again))
        except OSError as exc:
            self._limiter.log(log, logging.WARNING, "worker %d: %s cannot be closed yet: %s", self.domid, plane.key,
                              exc.strerror)
            again()

    def _destroyed(self, plane: Plane, result: dict[str, Any] | OSError) -> None:
        self._gone(plane)
        for finish in plane.stopping:
            finish(result)
        self._catch_up(plane)

    def _gone(self, plane: Plane) -> None:
        del self.planes[plane.key]
        self._watch_idleness()
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._leaving and not self.planes:
            self.loop.stop()

    def _watch_idleness(self) -> None:
        """Start or stop the clock that ends a worker which nobody needs."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._wire is None and not self.planes:
            self._idle = self.loop.later(self._patience, self.loop.stop)


def _event(key: str, event: PlaneEvent) -> dict[str, Any]:
    detail = f"{os.strerror(event.errno)}, queue {event.queue}, sector {event.detail}"
    return {"event": event.kind, "disk": key, "detail": detail}


def set_title(title: str) -> None:
    """Let ps show the title instead of the interpreter and its options (it fits into their place)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])       # proc(5): arg_start, arg_end
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(title.encode()[: end - start - 1].ljust(end - start, b"\0"))


def listen(path: str) -> socket.socket:
    """Where a later manager finds this worker; the socket of a dead one is replaced."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(path)
    os.chmod(path, 0o600)
    sock.listen(4)
    sock.setblocking(False)
    return sock


def confine(spec: str, domid: int) -> None:
    """Lock this process down; from here on it opens nothing, but what joining the machine again and again takes."""
    if os.environ.get("XENVBD_SANDBOX") == "off":
        log.warning("worker %d: not confined, for XENVBD_SANDBOX=off", domid)
        return
    boot_id()                                           # now: later it cannot be read
    confinement = sandbox.lock_down(hv.places(spec), last=rings.keep)
    log.log(logging.WARNING if confinement.missing else logging.INFO, "worker %d: confined: %s", domid, confinement)


def its_domain(manager: socket.socket) -> int | None:
    """Wait to be told a domain to serve; None if the manager has gone."""
    with contextlib.suppress(OSError):
        set_title("xenvbd-worker spare")
    gc.collect()
    gc.freeze()
    data = manager.recv(MAX_SPARE)
    return int(json.loads(data)["domid"]) if data else None


def main(arguments: list[str]) -> int:
    """Serve until told to stop; the exit status."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    logs.follow(options.get("--log", logs.word()))
    loop = Loop()
    hypervisor = hv.open(options["--hypervisor"], int(options["--backend-domid"]))
    manager = socket.socket(fileno=int(options["--fd"])) if "--fd" in options else None
    domid = int(options["--domid"]) if manager is None or "--domid" in options else its_domain(manager)
    if domid is None:
        return 0
    listener = listen(Runtime(options["--runtime"]).worker(domid))
    worker = Worker(loop, hypervisor, domid, listener, float(options["--idle"]))
    if manager is not None:
        worker.adopt(manager)
    signal.signal(signal.SIGTERM, lambda number, frame: loop.soon(worker.leave))
    with contextlib.suppress(OSError):
        set_title(f"xenvbd-worker {domid}")
    confine(hypervisor.spec, domid)
    gc.collect()
    gc.freeze()
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

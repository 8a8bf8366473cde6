"""The daemon: puts store, workers, backend and control socket on one loop, and lives until it is told to
stop.

Its end is not the disks' end: workers serve on, and the next manager takes over.
"""
from __future__ import annotations

import functools
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from xenvbd import __version__, handover, hv
from xenvbd.backend import Backend
from xenvbd.config import Config
from xenvbd.control import Server
from xenvbd.errors import StoreError, exit_code
from xenvbd.handover import notify
from xenvbd.hv import evtchn
from xenvbd.images import Images
from xenvbd.loop import Loop
from xenvbd.medium import Policy
from xenvbd.runtime import Runtime
from xenvbd.store import Store
from xenvbd.verbs import Verbs
from xenvbd.workers import Workers

RECONNECT_FIRST, RECONNECT_LAST = 0.1, 5.0      # seconds between attempts to reach the store
STOP_SECONDS = 10.0                             # for the guests to give up their disks, if workers are to stop

log = logging.getLogger("xenvbd")
Reload = Callable[[], Config]


class Service:
    """One manager."""

    def __init__(self, config: Config, reload: Reload | None = None, *, stop_workers: bool = False) -> None:
        """reload: reads the configuration again; stop_workers: end all disks with the manager (a simulation).
        Raises OSError: no Xen, no store, another manager, an area that a rival has."""
        self._reload, self._config = reload, config
        self._again = False
        self._reconnecting = False
        self.loop = Loop()
        self.loop.on_exhausted = self.restart
        self._stop_workers = stop_workers
        hypervisor = hv.open(config.hypervisor)         # first: without one nothing is made on this host
        self.runtime = Runtime(config.runtime_dir)
        self._lock = self.runtime.lock()
        self.store = Store(hypervisor.store_path)
        self.store.on_lost = self._store_lost
        self.workers = Workers(self.loop, self.runtime, config.hypervisor, self.store.domid, spare=config.spare_worker)
        self.backend = Backend(self.loop, self.store, self.runtime, self.workers, _policy(config), config.kinds,
                               lambda *names: self._config.options_of(*names),
                               channels=functools.partial(evtchn.offer, hypervisor),
                               images=Images(handover.found()))
        self.loop.read(self.store.fileno(), self._dispatch)
        self.backend.start()                            # before anything of another daemon could be replaced
        self.control = Server(self.loop, config.control, Verbs(self.backend, self.restart).dispatch)

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self.loop.soon(self.stop))
        signal.signal(signal.SIGHUP, lambda number, frame: self.loop.soon(self.reload))
        gc.collect()
        gc.freeze()
        notify("READY=1\nSTATUS=serving")
        log.info("xenvbd %s serves backend/%s, process %d", __version__, ", ".join(self.backend.kinds), os.getpid())
        self.loop.run()
        if self._again:
            handover.leave(self.backend.host.images.leave())
        self.close()
        if self._again:
            again()

    def restart(self) -> None:
        """Make room for another manager, in this process; workers serve on.  So after a want of memory too: what is
        left undone is seen by one that looks at everything anew."""
        log.info("the manager starts again")
        notify("RELOADING=1\nSTATUS=starting again")
        self._again = True
        self.loop.later(0.05, self.loop.stop)       # the answer to whoever asked goes first

    def stop(self) -> None:
        """Stop serving; the disks go on, unless the configuration wants the workers to stop as well."""
        notify("STOPPING=1")
        if not self._stop_workers:
            self.loop.stop()
            return
        for device in list(self.backend.devices.values()):
            device.unplug(force=True)
        self.loop.later(STOP_SECONDS, self.loop.stop)
        self._stop_when_idle()

    def reload(self) -> None:
        """Take a changed configuration for what is attached from now on."""
        notify("RELOADING=1")
        try:
            if self._reload is not None:
                config = self._reload()
                self.backend.claim(config.kinds)
                if late := self._config.late(config):
                    log.warning("%s: the change takes effect with `service xenvbd restart`", ", ".join(late))
                self._config = config
                self.backend.host.policy = _policy(self._config)
                log.info("the configuration was read again")
        except OSError as exc:
            log.error("the configuration stays as it was: %s", exc)
        notify("READY=1")

    def close(self) -> None:
        """Let go of everything, and leave it as it is."""
        self.control.close()
        self.backend.close(leave_claims=self._again)
        self.loop.forget(self.store.fileno())
        self.store.close()
        self.loop.close()
        os.close(self._lock)

    def _stop_when_idle(self) -> None:
        if self.backend.devices or self.workers.running:
            self.loop.later(0.02, self._stop_when_idle)
        else:
            self.loop.stop()

    def _dispatch(self) -> None:
        self.store.dispatch()

    def _store_lost(self, exc: StoreError) -> None:
        log.error("xenstored is lost (%s); the disks go on being served", exc)
        notify("STATUS=xenstored is lost")
        if not self._reconnecting:
            self._reconnecting = True
            self.loop.later(RECONNECT_FIRST, lambda: self._reconnect(RECONNECT_FIRST))

    def _reconnect(self, waited: float) -> None:
        """Try to reach the store again, and ever less often as long as that fails."""
        try:
            if not self.store.connected:
                self.store.reconnect()
            self.backend.store_returned()
        except StoreError as exc:
            log.debug("xenstored is still away: %s", exc)
            pause = min(2 * waited, RECONNECT_LAST)
            self.loop.later(pause, lambda: self._reconnect(pause))
            return
        self._reconnecting = False
        log.info("xenstored is back")
        notify("STATUS=serving")


def again() -> NoReturn:
    """Run the command that this process was started with, as it is installed now."""
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _policy(config: Config) -> Policy:
    return Policy(allow=config.allow, open_seconds=config.open_timeout)


def serve(config: Config, reload: Reload | None = None, *, stop_workers: bool = False) -> int:
    """Be the manager until told to stop; the command's exit status.  Parameters: see Service."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))        # the workers' too: no guest's data in a file
    try:
        Service(config, reload, stop_workers=stop_workers).run()
    except OSError as exc:
        log.error("%s", exc)
        return exit_code(exc)
    return 0

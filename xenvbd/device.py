"""One vbd: realize, connect, disconnect, unrealize, unplug.

What is to be done is xenbus.step()'s to say; a Device tells it what happened and does what it says, in
order.  A write that the store cannot take now, because it is gone, waits and is made when it is back.
"""
from __future__ import annotations

import errno
import functools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from xenvbd import features, stats, xenbus
from xenvbd.area import Areas, Gone, Leaving
from xenvbd.errors import Error, StoreError, TargetError
from xenvbd.features import Agreement
from xenvbd.history import History
from xenvbd.host import Host, WorkerProcess
from xenvbd.medium import Medium
from xenvbd.properties import DiskFacts, Properties, validate
from xenvbd.record import Record
from xenvbd.runtime import Runtime
from xenvbd.store import Watch
from xenvbd.trace import Limiter, event, quote
from xenvbd.xenbus import Phase, Plane, View, XenbusState

RETRY_SECONDS = 1.0                 # after a transaction that others kept in conflict

log = logging.getLogger("xenvbd")


class Device:
    """A vbd from the moment it is claimed until nothing of it is left."""

    def __init__(self, host: Host, kind: str, domid: int, devid: int, *, domain: str = "", name: str = "",
                 properties: Properties | None = None, engine: str = "") -> None:
        """name: "web1:xvda"; domain: see Record.  properties: of a disk whose areas are to be created; None:
        a toolstack made them, and they say what is wanted."""
        self.host, self.domid, self.devid, self.domain = host, domid, devid, domain
        self.key = Runtime.key(kind, domid, devid)
        self.name = name or self.key
        self.areas = Areas(host.store, host.backend_domid, kind, domid, devid)
        self.created = properties is not None
        self.view = View(created=self.created)
        self.history = History(self.name)
        self.history.start(self.view)
        options = host.options(self.name, f"{domid}:{devid}")
        self.options, self.properties = options, properties
        self.engine, self.buffer_bytes = engine, options.buffer_bytes
        self.serving: str | None = None             # the engine that serves it
        self.facts: DiskFacts | None = None
        self.medium: Medium | None = None
        self.agreement: Agreement | None = None
        self._past = stats.Snapshot.zero()
        self.error: OSError | None = None       # why it does not work, as last reported
        self._todo: deque[Callable[[], None]] = deque()
        self._running = self._look_again = False
        self._worker: WorkerProcess | None = None       # which has the plane
        self._watch: Watch | None = None
        self._give_up: Callable[[], None] = lambda: None
        self._limiter = Limiter()
        self._actions: dict[type[xenbus.Action], Callable[[Any], None]] = {
            xenbus.Publish: self._publish, xenbus.Connect: self._connect, xenbus.Disconnect: self._disconnect,
            xenbus.SetState: self._set_state, xenbus.TakeOffline: self._take_offline,
            xenbus.ReportError: self._report, xenbus.ClearError: self._clear_error,
            xenbus.RemoveAreas: self._remove_areas, xenbus.Destroy: self._destroy}

    # What happens to it

    def realize(self) -> None:
        """Open the target and publish the areas."""
        event("xen_device_realize", disk=self.name, path=self.areas.backend)
        self._follow()
        self.take(xenbus.Realize())

    def adopt(self, record: Record, serving: bool) -> None:
        """Go on with what an earlier manager published; serving: a worker runs its plane."""
        seen = self.areas.see()
        backend = xenbus.parse_state(seen.backend)
        self.properties, self.facts = record.properties, record.facts
        self.engine, self.buffer_bytes = record.engine, record.buffer_bytes
        self.created, self.areas.published = record.created, True
        self.agreement = record.agreement if serving else None
        self.view = xenbus.adopted(
            backend or XenbusState.CLOSED, xenbus.parse_state(seen.frontend), seen.online == b"1",
            serving=serving, created=record.created)
        self.history.start(self.view)
        self._follow()
        if serving:
            self._worker = self.host.worker(self.domid)
            self.take(xenbus.PlaneStarted())
        self.refresh()

    def refresh(self) -> None:
        """Look at both areas: something in them may have changed."""
        if not self._has_areas():
            return
        seen = self.areas.see()
        if self._todo and seen.backend is not None:
            # What is there may be an older state of our own, that must not be taken for a toolstack's wish.
            self._look_again = True
        else:
            self.take(xenbus.BackendState(xenbus.parse_state(seen.backend), seen.online == b"1"))
        frontend = xenbus.parse_state(seen.frontend)
        if frontend is XenbusState.UNKNOWN:
            self._say(logging.WARNING, "the frontend wrote a state that is none: %s", quote(seen.frontend or b""))
        self.take(xenbus.FrontendState(frontend))

    def unplug(self, force: bool) -> None:
        """Detach: ask the guest to close; force: do not wait for it."""
        event("xen_device_unplug", disk=self.name, force=force)
        draining = self.view.plane is Plane.STOPPING and not self.view.forced
        self.take(xenbus.Unplug(force))
        if force and draining and self._worker is not None:
            # It drains for a guest that nobody waits for any more.
            self._worker.call("disconnect", lambda result: None, disk=self.key, abandon=True)

    def worker_event(self, kind: str, detail: str) -> None:
        """What its data plane tells: a PlaneEvent's kind, and the rest of it as a text."""
        event("xen_block_plane_event", disk=self.name, kind=kind, detail=detail)
        if kind == "quarantined":
            self.take(xenbus.PlaneBroken("the frontend broke its ring, which is served no more until it closes"))
        else:
            self._say(logging.WARNING, "%s: %s", kind, detail)
        self.host.changed(self)

    def worker_lost(self, worker: WorkerProcess) -> None:
        """A worker has died; if it had this disk's plane, that is gone."""
        if self._worker is worker:
            self._worker = None
            self.take(xenbus.PlaneLost(f"the worker of domain {self.domid} (process {worker.pid}) died"))

    def domain_gone(self) -> None:
        """The guest is dead, or another has its number."""
        self.take(xenbus.DomainGone())

    def resume(self, done: Callable[[dict[str, Any] | OSError], None]) -> None:
        """Let its plane try again what it holds."""
        if self._worker is None:
            raise Error(errno.ENOTCONN, "the disk is not connected", disk=self.name)
        self._worker.call("resume", done, disk=self.key)

    def take(self, happened: xenbus.Event) -> None:
        """Tell the state machine, and do what it says."""
        before = self.view
        self.view, actions = xenbus.step(self.view, happened)
        self.history.saw(before, self.view)
        self._todo.extend(functools.partial(self._actions[type(action)], action) for action in actions)
        self.run()

    def run(self) -> None:
        """Do what is to be done, as far as the store is there for it."""
        if self._running:
            return
        self._running = True
        try:
            while self._todo and self.host.store.connected and self._done(self._todo.popleft()):
                pass
        finally:
            self._running = False
        if self._look_again and not self._todo:
            self._look_again = False
            self.host.dirty(self)
        self.host.changed(self)

    def close(self) -> None:
        """Let go of what the manager holds for it, and leave it as it is: it goes on being served."""
        self._give_up()
        if self.medium is not None:
            self.medium.close()
        self.medium = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    # What there is to know

    @property
    def connected(self) -> bool:
        return self.view.backend is XenbusState.CONNECTED and self.view.plane is Plane.RUNNING

    @property
    def published(self) -> bool:
        return self.view.phase is Phase.LIVE

    @property
    def gone(self) -> bool:
        return self.view.phase is Phase.GONE

    @property
    def failed(self) -> bool:
        """It does not work, and will not by waiting."""
        return self.view.phase in (Phase.FAILED, Phase.GONE) or self.view.failed or self.view.broken

    def counters(self) -> stats.Snapshot:
        """What its queues have done since this manager knows it, its earlier connections included."""
        queues = len(self.agreement.queues) if self.agreement else 0
        files = [self.host.runtime.stats(self.key, queue) for queue in range(queues)]
        return self._past + stats.Snapshot.of_files(files)

    # Doing

    def _done(self, work: Callable[[], None]) -> bool:
        """Do one thing; False if it has to wait, and all that comes after it with it."""
        try:
            work()
        except Gone:
            self.take(xenbus.BackendState(None))
        except Leaving as exc:
            self.take(xenbus.BackendState(exc.state, online=False))
        except StoreError as exc:
            if not self.host.store.connected or exc.errno == errno.EAGAIN:
                self._todo.appendleft(work)
                if self.host.store.connected:
                    self.host.loop.later(RETRY_SECONDS, self.run)
                return False
            self._say(logging.ERROR, "%s", exc)
        return True

    def _follow(self) -> None:
        """Watch the frontend's state; everything that can happen to the backend's area is the manager's one watch."""
        event("xen_device_add_watch", disk=self.name, path=self.areas.frontend_state)
        self._watch = self.host.store.watch(self.areas.frontend_state, lambda path: self.host.dirty(self))

    def _publish(self, action: xenbus.Publish) -> None:
        try:
            if self.properties is None:
                self.properties = self.options.applied(self.areas.properties())
            if self.properties.target is None:
                validate(self.properties, DiskFacts(0))
            elif not self.engine:       # what is configured is for images; a sized target is its own engine
                self.engine = self.options.engine if self.properties.target.scheme == "file" else "auto"
        except OSError as exc:
            self._unpublished(exc)
        else:
            self._with_medium(self._publish_medium, self._unpublished)

    def _publish_medium(self, medium: Medium) -> None:
        """The target is open: write everything that the guest is to know."""
        properties = self._properties()
        try:
            validate(properties, medium.facts)
            keys = features.backend_keys(properties, medium.facts)
            self.facts = medium.facts
            self._save()            # first: a manager that dies now leaves nothing that the next knows nothing of
            if self.created and not self.areas.published:
                self.areas.create(properties, keys)
            else:
                self.areas.publish(keys)
        except Gone as exc:
            self._say(logging.WARNING, "%s", exc)
            self.take(xenbus.BackendState(None))
            self.take(xenbus.PublishFailed(str(exc)))
        except OSError as exc:
            if isinstance(exc, Leaving):
                self.take(xenbus.BackendState(exc.state, online=False))
            self._unpublished(exc)
        else:
            self._published()

    def _published(self) -> None:
        properties, facts = self._properties(), self.facts
        assert facts is not None
        if properties.device_type == "cdrom":
            event("xen_cdrom_realize", disk=self.name)
        else:
            event("xen_disk_realize", disk=self.name)
        event("xen_block_realize", disk=self.name, target=str(properties.target), mode=properties.mode)
        event("xen_block_size", disk=self.name, sectors=facts.size // properties.sector_unit)
        self._say(logging.INFO, "published: %s, %d bytes, mode %s", properties.target, facts.size, properties.mode)
        self.take(xenbus.Published())
        try:
            self.host.worker(self.domid)        # it starts while the guest thinks
        except OSError as exc:
            self._say(logging.WARNING, "its worker cannot be started: %s", exc)

    def _unpublished(self, exc: OSError) -> None:
        if self._is_lost(exc):
            self._todo.appendleft(functools.partial(self._publish, xenbus.Publish()))
            return
        if self.medium is not None:
            self.medium.close()
            self.medium = None
        self.host.runtime.forget(self.key)
        self.error = exc
        self.take(xenbus.PublishFailed(str(exc)))

    def _connect(self, action: xenbus.Connect) -> None:
        try:
            self.agreement = self.areas.agreement(self._properties())
        except OSError as exc:
            self._unconnected(exc)
        else:
            self._with_medium(self._connect_medium, self._unconnected)

    def _connect_medium(self, medium: Medium) -> None:
        """Hand ring and target over to the worker."""
        agreement, properties = self.agreement, self._properties()
        assert agreement is not None and self.facts is not None
        try:
            if medium.facts.size != self.facts.size:
                raise TargetError(errno.ESTALE, f"the size of {properties.target} is {medium.facts.size} bytes now, "
                                  f"and {self.facts.size} were published; detach and attach the disk")
            worker = self._worker = self.host.worker(self.domid)
            files = self.host.runtime.new_queues(self.key, len(agreement.queues), stats.SIZE)
            self._save()
        except OSError as exc:
            self._unconnected(exc)
            return
        self.medium = None
        image = medium.take()
        event("xen_block_connect", disk=self.name, protocol=agreement.abi, queues=len(agreement.queues),
              ring_page_order=agreement.ring_page_order,
              event_channels=[queue.event_channel for queue in agreement.queues])
        worker.call("connect", self._connected, [*image, *files], disk=self.key, image=bool(image),
                    agreement=agreement.to_json(), **self._record().orders())

    def _connected(self, result: dict[str, Any] | OSError) -> None:
        if isinstance(result, OSError):
            self._unconnected(result)
            return
        self.error = None
        self.serving = str(result.get("engine", self.engine))
        self._say(logging.INFO, "connected: %s", self._describe())
        self.take(xenbus.PlaneStarted())

    def _unconnected(self, exc: OSError) -> None:
        if self._is_lost(exc):
            self._todo.appendleft(functools.partial(self._connect, xenbus.Connect()))
            return
        self.agreement, self.error, self._worker = None, exc, None
        self.host.runtime.remove_queues(self.key)
        self.take(xenbus.PlaneFailed(str(exc)))

    def _disconnect(self, action: xenbus.Disconnect) -> None:
        event("xen_block_disconnect", disk=self.name, reason=self.view.backend.label)
        if self._worker is None:
            self.take(xenbus.PlaneStopped())
        else:
            abandon = self.view.forced or self.view.frontend is None
            self._worker.call("disconnect", self._disconnected, disk=self.key, abandon=abandon)

    def _disconnected(self, result: dict[str, Any] | OSError) -> None:
        self._past = self.counters().settled()
        self.agreement = self._worker = None
        if not isinstance(result, OSError) or result.errno == errno.ENOENT:
            self.host.runtime.remove_queues(self.key)
            self._say(logging.INFO, "disconnected")
            self.take(xenbus.PlaneStopped())
        else:
            self.take(xenbus.PlaneLost(str(result)))

    def _set_state(self, action: xenbus.SetState) -> None:
        self.areas.set_state(action.state)

    def _take_offline(self, action: xenbus.TakeOffline) -> None:
        self.areas.take_offline(closing=action.closing)

    def _report(self, action: xenbus.ReportError) -> None:
        self._say(logging.ERROR, "%s", action.message)
        self.error = self.error or Error(errno.EIO, action.message)
        if self._has_areas():
            self.areas.report(action.message)

    def _clear_error(self, action: xenbus.ClearError) -> None:
        self.error = None
        self.areas.clear_error()

    def _remove_areas(self, action: xenbus.RemoveAreas) -> None:
        if self._has_areas() and (self.created or self.host.backend_domid != 0):
            self.areas.remove(frontend=self.created)

    def _destroy(self, action: xenbus.Destroy) -> None:
        event("xen_device_unrealize", disk=self.name, path=self.areas.backend)
        event("xen_block_unrealize", disk=self.name)
        self.close()
        self.host.runtime.forget(self.key)
        self._todo.clear()
        self._say(logging.INFO, "gone")
        self.host.destroyed(self)

    # Helpers

    def _with_medium(self, then: Callable[[Medium], None], otherwise: Callable[[OSError], None]) -> None:
        """Go on with the open target, now or when a helper thread has opened it."""
        if self.medium is not None:
            then(self.medium)
            return
        properties, policy, engine = self._properties(), self.host.policy, self.engine

        def opened(result: Medium | OSError) -> None:
            if isinstance(result, OSError):
                otherwise(result)
            else:
                self.medium = result
                event("xen_block_blockdev_add", disk=self.name, target=str(properties.target), engine=self.engine)
                then(result)

        self._give_up = self.host.helpers.run(
            f"opening {properties.target}", lambda: Medium.open(properties, policy, engine), opened,
            seconds=policy.open_seconds, dispose=Medium.close)

    def _has_areas(self) -> bool:
        """Whether the areas are its own: if their making failed, those of that name are somebody else's."""
        return not self.created or self.areas.published

    def _properties(self) -> Properties:
        assert self.properties is not None      # nothing is published without them
        return self.properties

    def _is_lost(self, exc: OSError) -> bool:
        """Whether this is no failure of the device, but the store has gone: to be tried again when it is back."""
        return isinstance(exc, StoreError) and not self.host.store.connected

    def _record(self) -> Record:
        assert self.facts is not None           # known since it was published
        return Record(self.areas.kind, self.domain, self.name, self.created, self._properties(), self.facts,
                      self.engine, self.buffer_bytes, self.agreement)

    def _save(self) -> None:
        self.host.runtime.save(self.key, self._record().to_json())

    def _describe(self) -> str:
        agreement = self.agreement
        assert agreement is not None
        rings = f"{len(agreement.queues)} x {1 << agreement.ring_page_order} ring pages"
        return f"{agreement.abi}, {rings}, engine {self.serving}"

    def _say(self, level: int, message: str, *args: object) -> None:
        self._limiter.log(log, level, f"{self.name}: {message}", *args)

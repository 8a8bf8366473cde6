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

from xenvbd import domains, features, memory, milestones, xenbus
from xenvbd.area import Areas, Gone, Leaving
from xenvbd.connection import ANOTHER_RING, Connection
from xenvbd.errors import Error, StoreError
from xenvbd.history import History
from xenvbd.holding import Holding
from xenvbd.host import Host, Options
from xenvbd.medium import Medium, refuse_shrunk
from xenvbd.properties import DiskFacts, Properties, validate
from xenvbd.record import Record
from xenvbd.renewal import Renewal
from xenvbd.runtime import Runtime
from xenvbd.stalls import Stalls
from xenvbd.store import Watch
from xenvbd.trace import Limiter, event, quote
from xenvbd.xenbus import Phase, Plane, View, XenbusState

MOST_TODO = 32                      # things to be done, until what the frontend does is not looked at
FORCED_REFUSALS = 5                 # by the store, until a disk that is to go by force goes without
RETRY_SECONDS = 1.0                 # after what the store, or the runtime directory, did not take

log = logging.getLogger("xenvbd")


class _Later(Exception):
    """What is to be written is not known yet; run() is called when it is."""


class Device(Connection):
    """A vbd from the moment it is claimed until nothing of it is left."""

    def __init__(self, host: Host, kind: str, domid: int, devid: int, *, domain: str = "",
                 properties: Properties | None = None, engine: str = "") -> None:
        """domain: its handle, see Record.  properties: of a disk whose areas are to be created; None:
        a toolstack made them, and they say what is wanted."""
        super().__init__()
        self.host, self.domid, self.devid, self.domain = host, domid, devid, domain
        self.key = Runtime.key(kind, domid, devid)
        self.areas = Areas(host.store, host.backend_domid, kind, domid, devid)
        self._last_name = ""
        self.created = properties is not None
        self.view = View(created=self.created)
        self.history = History(lambda: self.name)
        self.history.start(self.view)
        self.options, self.properties = self._options(), properties
        self.engine, self.buffer_bytes = engine, self.options.buffer_bytes
        self.facts: DiskFacts | None = None
        self.holding = Holding(host, self.key, domid, domain, self._save_soon)
        self.stalls = Stalls(host.loop, self.options.stall_alarm, self._unanswered, self._stalled)
        self._todo: deque[Callable[[], None]] = deque()
        self._renewal = Renewal(self.holding, self.run)
        self._closed = False
        self._running = self._look_again = False
        self._releasing = self._free = False            # its image is being let go; is free for others
        self._watch: Watch | None = None
        self._refusal: StoreError | None = None         # of the store, to what is first in _todo
        self._refusals = 0                              # of that, one after the other
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
        self.agreement, self.flush_failed, self.image = record.agreement, record.flush_failed, record.image
        self.host.helpers.reserve(self.key)
        died = not serving and self.adoptable
        stale = (serving or died) and self._has_another_ring()
        if not (serving or died):
            self._lost, self.agreement = self.agreement, None
        self.view = xenbus.adopted(
            backend or XenbusState.CLOSED, xenbus.parse_state(seen.frontend), seen.online == b"1",
            serving=serving, created=record.created, died=died, stale=stale)
        if self.view.stale or (stale and died):
            self._say(logging.WARNING, ANOTHER_RING)
        self.history.start(self.view)
        self._follow()
        self.holding.recover(self._properties(), self.engine, record.identity, serving=serving)
        if serving:
            self._worker = self.host.worker(self.domid)
            self._learn(self._worker.told.get(self.key, {}))
            self._worker.allow(self.key, memory.of_disk(record))
            self.holding.connected()
            self.take(xenbus.PlaneStarted())
        self.refresh()

    def refresh(self) -> None:
        """Look at both areas: something in them may have changed."""
        if not self._has_areas():
            return
        if len(self._todo) >= MOST_TODO:
            self._look_again = True         # the store takes nothing, and the guest goes on and on
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
        self._compare_rings()

    def unplug(self, force: bool) -> None:
        """Detach: ask the guest to close; force: do not wait for it."""
        event("xen_device_unplug", disk=self.name, force=force)
        draining = self.view.plane is Plane.STOPPING and not self.view.forced
        self.take(xenbus.Unplug(force))
        if force and draining and self._worker is not None:
            # It drains for a guest that nobody waits for any more.
            self._worker.call("disconnect", lambda result: None, disk=self.key, abandon=True)

    def accept_image(self) -> None:
        """An administrator says that the image which its path means now has the content of the one that was opened.
        Error (EINVAL): it is that one."""
        self.holding.accept()
        self._say(logging.WARNING, "an administrator says that its content is the same: %s is served, whatever it was",
                  self._properties().target)

    def domain_gone(self) -> None:
        """The guest is dead, or another has its number."""
        self.take(xenbus.DomainGone())

    def renamed(self) -> None:
        """Its domain has another name: what `match` of the configuration says of that holds from now on, as far as it
        is not agreed on with the guest."""
        self.options = self._options()
        if self.stalls.alarm != self.options.stall_alarm:
            self.stalls.stop()
            self.stalls.alarm = self.options.stall_alarm
            self._watch_stalls()

    def take(self, happened: xenbus.Event) -> None:
        """Tell the state machine, and do what it says."""
        before = self.view
        self.view, actions = xenbus.step(self.view, happened)
        self.history.saw(before, self.view)
        self._watch_stalls()
        self._todo.extend(functools.partial(self._actions[type(action)], action) for action in actions
                          if not isinstance(action, xenbus.Adopt))
        if xenbus.Adopt() in actions:
            self._adopt()                   # at once: it needs no store, and the guest waits
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
        self._closed = True
        self.holding.close()
        self.stalls.stop()
        if self._adoption is not None:
            self._adoption.cancel()
        if self._watch is not None:
            event("xen_device_remove_watch", disk=self.name, path=self.areas.frontend_state)
            self._watch.cancel()
            self._watch = None

    # What there is to know

    @property
    def name(self) -> str:
        """DOMAIN:VDEV by the domain's name now, for people; it is no way to find the disk again, which key is."""
        return self._last_name or domains.disk_name(self.host.name_of(self.domid, self.domain), self.devid)

    @property
    def connected(self) -> bool:
        return self.view.backend is XenbusState.CONNECTED and self.view.plane is Plane.RUNNING and not self._todo

    @property
    def published(self) -> bool:
        return self.view.phase is Phase.LIVE

    @property
    def gone(self) -> bool:
        """Nothing of it is left, in xenstore either, which may have to be waited for."""
        return self.view.phase is Phase.GONE and not self._todo

    @property
    def failed(self) -> bool:
        """It does not work, and will not by waiting."""
        return self.view.phase in (Phase.FAILED, Phase.GONE) or self.view.failed or self.view.broken

    # Doing

    def _done(self, work: Callable[[], None]) -> bool:
        """Do one thing; False if it has to wait, and all that comes after it with it."""
        try:
            work()
        except Gone:
            self.take(xenbus.BackendState(None))
        except Leaving as exc:
            self.take(xenbus.BackendState(exc.state, online=False))
        except _Later:
            self._todo.appendleft(work)
            return False
        except StoreError as exc:
            return self._refused(work, exc)
        if self._refusal is not None and self.error is self._refusal:
            self.error = None
        self._refusal, self._refusals = None, 0
        return True

    def _refused(self, work: Callable[[], None], exc: StoreError) -> bool:
        """The store did not take it.  It is tried again until it does, for both sides go by what is written there; but
        who wants the disk gone by force need not wait for that."""
        if self.host.store.connected:
            self._say(logging.ERROR, "xenstored refused, and is asked again: %s", exc)
            self._refusals += 1
            if self.view.forced and self._refusals > FORCED_REFUSALS:
                self._refusals = 0
                return True
            self._refusal, self.error = exc, self.error or exc
            self.host.loop.later(RETRY_SECONDS, self.run)
        self._todo.appendleft(work)
        return False

    def _follow(self) -> None:
        """Watch the frontend's state; everything that can happen to the backend's area is the manager's one watch."""
        event("xen_device_add_watch", disk=self.name, path=self.areas.frontend_state)

        def changed(path: str) -> None:
            event("xen_device_frontend_changed", disk=self.name)
            self.host.dirty(self)

        self._watch = self.host.store.watch(self.areas.frontend_state, changed)

    def _publish(self, action: xenbus.Publish) -> None:
        try:
            self.buffer_bytes = self.options.buffer_bytes
            if self.properties is None:
                self.properties = self.options.applied(self.areas.properties())
            if self.properties.target is None:
                validate(self.properties, DiskFacts(0))
            elif not self.engine:       # what is configured is for images; a sized target is its own engine
                self.engine = self.options.engine if self.properties.target.scheme == "file" else "auto"
        except OSError as exc:
            self._unpublished(exc)
        else:
            self.holding.survey(self._properties(), self.engine, self._surveyed)

    def _surveyed(self, medium: Medium | OSError) -> None:
        """The target is claimed: write everything that the guest is to know."""
        self.landing = ""
        if isinstance(medium, OSError):
            if medium.errno == errno.EINPROGRESS and self.view.online and not self.view.gone:
                self._survey_again(medium)
            else:
                self._unpublished(medium)
            return
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

    def _survey_again(self, exc: OSError) -> None:
        """What a process that is dead had begun to write lands some time: wait for it as long as somebody wants to."""
        self.landing = str(exc)
        self._say(logging.WARNING, "not offered yet: %s", exc)
        self.host.changed(self)
        self.host.loop.later(RETRY_SECONDS, self._survey)

    def _survey(self) -> None:
        if self.view.phase is not Phase.PUBLISHING or self._closed:
            return
        try:
            self.holding.survey(self._properties(), self.engine, self._surveyed)
        except StoreError as exc:
            self._unpublished(exc)

    def _published(self) -> None:
        properties, facts = self._properties(), self.facts
        assert facts is not None
        self.host.helpers.reserve(self.key)
        milestones.published(self.name, properties, facts)
        self._say(logging.INFO, "published: %s, %d bytes, mode %s", properties.target, facts.size, properties.mode)
        for remark in self.remarks:
            self._say(logging.WARNING, "%s", remark)
        self.take(xenbus.Published())
        self.host.dirty(self)       # what a guest did meanwhile was not looked at: the areas were not known to be ours
        try:
            self.host.worker(self.domid)        # it starts while the guest thinks
        except OSError as exc:
            self._say(logging.WARNING, "its worker cannot be started: %s", exc)

    def _unpublished(self, exc: OSError) -> None:
        if self._is_lost(exc):
            self._todo.appendleft(functools.partial(self._publish, xenbus.Publish()))
            return
        self.host.runtime.forget(self.key)
        self.error = exc
        self.holding.release(lambda: self.take(xenbus.PublishFailed(str(exc))))

    def _set_state(self, action: xenbus.SetState) -> None:
        if action.state is XenbusState.INITWAIT and self._properties().is_image:
            self._offer_again()
        else:
            self.areas.set_state(action.state)

    def _offer_again(self) -> None:
        """InitWait for the next kernel, with what the image has become: it may have grown."""
        if not (self.view.forced or self._renewal.is_there(self._properties(), self.engine)):
            raise _Later
        found = self._renewal.take(self.facts)
        if found is None or found == self.facts or not self._fits(found):
            self.areas.set_state(XenbusState.INITWAIT)
            return
        self.areas.publish(features.backend_keys(self._properties(), found))
        self._say(logging.INFO, "published again: %d bytes", found.size)
        self.facts = found
        self._save_soon()

    def _fits(self, facts: DiskFacts) -> bool:
        """Whether the image can be offered as it is now; else it is as it was, and connecting says what is wrong."""
        try:
            refuse_shrunk(self._properties(), self.facts or facts, facts)
            validate(self._properties(), facts)
        except OSError as exc:
            self._say(logging.ERROR, "offered as it was: %s", exc)
            return False
        return True

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
        self._let_go()              # first: whoever sees that the areas are gone may attach the image elsewhere
        if self._has_areas() and (self.created or self.host.backend_domid != 0):
            self.areas.remove(frontend=self.created)

    def _destroy(self, action: xenbus.Destroy) -> None:
        self._let_go()
        milestones.gone(self.name, self.areas.backend, self.properties)
        self.close()
        self.host.runtime.forget(self.key)
        self.host.helpers.release(self.key)
        self._todo.clear()
        self._say(logging.INFO, "gone")
        self._last_name = self.name         # whoever waits for its end is told by that
        self.host.destroyed(self)

    def _let_go(self) -> None:
        """Let others have the image.  _Later, as long as its file system takes to give up the lock."""
        if not self._releasing:
            self._releasing = True
            self.holding.release(self._released)
        if not self._free:
            raise _Later

    def _released(self) -> None:
        self._free = True
        self.run()

    # Helpers

    def _options(self) -> Options:
        domain = self.host.name_of(self.domid, self.domain)
        return self.host.options(*domains.disk_names(domain, self.domid, self.devid))

    def _has_areas(self) -> bool:
        """Whether the areas are its own: if their making failed, those of that name are somebody else's."""
        return not self.created or self.areas.published

    def _save(self) -> None:
        self.host.runtime.save(self.key, self._record().to_json())

    def _save_soon(self) -> None:
        """Keep what the next manager must know; if it cannot be now, the disk is served all the same."""
        if self.gone:
            return
        try:
            self._save()
        except OSError as exc:
            self._say(logging.ERROR, "what the next manager must know of it cannot be kept yet: %s", exc)
            self.host.loop.later(RETRY_SECONDS, self._save_soon)

    def _say(self, level: int, message: str, *args: object) -> None:
        self._limiter.log(log, level, f"%s: {message}", self.name, *args)

"""The image of one vbd, from realize to unrealize: claimed once, and opened anew for each worker.

A manager that takes a vbd over recognises its image first (disk/identity.py): until it has, the worker that serves
goes on, and no other is given anything.  That is tried again for as long as it takes, for an image that was moved away
may be moved back.
"""
from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import replace

from xenvbd import domains, libxl, others
from xenvbd.disk import users
from xenvbd.disk.claim import Claim, Terms
from xenvbd.disk.identity import Identity
from xenvbd.errors import Error, StoreError
from xenvbd.host import Host
from xenvbd.images import Taken, Tenant
from xenvbd.loop import Timer
from xenvbd.medium import Medium, Wanted
from xenvbd.others import Area
from xenvbd.properties import Properties
from xenvbd.trace import event

RECLAIM_SECONDS = 1.0           # between two looks whether an image is there again
LOOK_SECONDS = 2.0              # for who else has an image to be found
RELEASE_SECONDS = 8.0           # for a file system to give up a lock; after it the disk is gone all the same

log = logging.getLogger("xenvbd")
Done = Callable[[Medium | OSError], None]


class Holding:
    """identity: of the image, None of a target that is none, or before it was claimed; trouble: why an image that an
    earlier manager had claimed is not ours yet; empty if it is."""

    def __init__(self, host: Host, key: str, domid: int, vm: str, recovered: Callable[[], None]) -> None:
        """vm: see domains.identity(); recovered: called when the image of an earlier manager is ours."""
        self._host, self._key, self._domid, self._vm = host, key, domid, vm
        self.identity: Identity | None = None
        self.trouble = ""
        self._tenant: Tenant | None = None
        self._wanted: Wanted | None = None
        self._recovered = recovered
        self._recovering = False
        self._serving = False                           # a worker that an earlier manager left has the image
        self._give_up: Callable[[], None] = lambda: None
        self._timer: Timer | None = None
        self._closed = False
        self._twin: Timer | None = None                 # the next attempt to lock against QEMU, or the last

    @property
    def claimed(self) -> bool:
        """Whether another worker can be given the image."""
        return self.identity is not None and not self._recovering

    @property
    def coming(self) -> bool:
        """Whether an earlier manager's image is about to be claimed again, and nothing is known to be in the way."""
        return self._recovering and not self.trouble

    # What a new vbd asks

    def survey(self, properties: Properties, engine: str, done: Done) -> None:
        """Claim the target and look at it, before the guest is told of it; done() gets a Medium without an image."""
        wanted = self.wanted(properties, engine)
        self._run(properties, lambda: Medium.survey(wanted), done)

    def open(self, properties: Properties, engine: str, done: Done) -> None:
        """Open it for a worker; done() gets the Medium.  ClaimError (EINPROGRESS): to be tried again."""
        wanted = self.wanted(properties, engine)

        def opened(result: Medium | OSError) -> None:
            if not isinstance(result, OSError):
                event("xen_block_blockdev_add", disk=self._host.disk_name(self._key), target=str(properties.target),
                      engine=engine)
            done(result)

        self._run(properties, lambda: Medium.open(wanted), opened)

    def wanted(self, properties: Properties, engine: str) -> Wanted:
        """What a helper thread is to open.  StoreError; not once the image is claimed, for then no store is asked."""
        if self._wanted is not None and self.claimed:
            return replace(self._wanted, policy=self._host.policy, others=())
        if self._tenant is None or self._tenant.gone.is_set():
            self._tenant = Tenant(self._key, self._domid, self._vm, domains.group(self._host.store, self._domid),
                                  properties.read_only, properties.share, properties.lock)
        self._wanted = Wanted(properties, self._host.policy, engine, self._host.images, self._tenant,
                              self._terms(properties), self._host.runtime.fence(self._key),
                              self._others(properties, self._tenant))
        return self._wanted

    def _terms(self, properties: Properties) -> Terms:
        """QEMU's locks are not for a guest whose own QEMU may have the image as well, before it has a driver."""
        return Terms(properties.read_only, properties.share, properties.lock, guard=not self._has_twin(),
                     expected=self.identity, seize=self._recovering,
                     patient=domains.is_incoming(self._host.store, self._domid), disks_of=self._host.disks_of)

    def _has_twin(self) -> bool:
        return libxl.guest_type(self._host.store, self._domid) == "hvm"

    def _others(self, properties: Properties, tenant: Tenant) -> list[Area]:
        """The disks of other backends that a new vbd may not share its image with: those of its own guest, as Xen's
        own script has it (same_vm), and what says that it shares (w!), are left out.  StoreError."""
        if self.identity is not None or self._recovering or properties.share or not properties.is_image:
            return []
        store = self._host.store
        return [area for area in others.areas(store, self._host.backend_domid, self._host.serves)
                if not (tenant.vm and domains.identity(store, area.domid) == tenant.vm)
                and (tenant.group is None or domains.group(store, area.domid) != tenant.group)]

    # What a manager asks that takes it over

    def recover(self, properties: Properties, engine: str, identity: Identity | None, *, serving: bool) -> None:
        """Claim the image again that an earlier manager had; serving: beside a worker that serves it."""
        if not properties.is_image:
            return
        self.identity, self._recovering, self._serving = identity, True, serving
        self._recover(properties, engine)

    def accept(self) -> None:
        """Take what the path means now for the image that is to be recovered.  Error (EINVAL): there is none."""
        if not self._recovering:
            raise Error(errno.EINVAL, "its image is the one that was opened; there is nothing to accept")
        self.identity = None

    def _recover(self, properties: Properties, engine: str) -> None:
        self._timer = None
        try:
            wanted = self.wanted(properties, engine)
        except StoreError as exc:
            self._again(properties, engine, exc)
            return

        def claimed(result: Claim | OSError) -> None:
            if isinstance(result, OSError):
                self._again(properties, engine, self.explained(result))
                return
            if self._serving and self._tenant is not None:
                self._host.images.works(self._tenant)
            self.has(result.identity)

        self._give_up = self._host.helpers.run(
            f"claiming {properties.target}", wanted.claim, claimed,
            seconds=self._host.policy.open_seconds, dispose=lambda claim: None, owner=self._key)

    def _again(self, properties: Properties, engine: str, exc: OSError) -> None:
        if str(exc) != self.trouble:
            self.trouble = str(exc)
            log.warning("%s: its image is not claimed again yet: %s", self._host.disk_name(self._key), exc)
        if not self._closed:
            self._timer = self._host.loop.later(RECLAIM_SECONDS, lambda: self._recover(properties, engine))

    # Beside the guest's own QEMU

    def connected(self) -> None:
        """The guest's driver has it: a twin that the guest's QEMU emulates is closed now, or soon will be."""
        if self._twin is None and self._has_twin():
            self._twin = self._host.loop.later(0, self._guard)

    def _guard(self) -> None:
        """Keep QEMU's tools out, once the guest's own QEMU is."""
        claim = self._host.images.of(self._key)
        if self._twin is None or claim is None:
            return

        def guarded(result: bool | OSError) -> None:
            if isinstance(result, OSError) and self._twin is not None and not self._closed:
                self._twin = self._host.loop.later(RECLAIM_SECONDS, self._guard)

        self._host.helpers.run(f"locking {claim.path} for QEMU's tools", lambda: _guarded(claim), guarded,
                               seconds=RELEASE_SECONDS, dispose=lambda result: None, owner=self._key, lane="qemu")

    # Others that came later

    def uses(self, done: Callable[[list[str]], None]) -> None:
        """What this host uses the image for beside the disk, which nothing could keep out: done() gets sentences."""
        claim = self._host.images.of(self._key)
        if claim is None:
            done([])
            return
        self._host.helpers.run(
            f"looking who has {claim.path}", lambda: _uses(claim),
            lambda result: done([] if isinstance(result, OSError) else result),
            seconds=LOOK_SECONDS, dispose=lambda result: None, owner=self._key, lane="look")

    # Its end

    def rests(self) -> None:
        """Its worker has closed the image, and what was begun has landed."""
        self._serving = False
        self._host.images.rests(self._key)
        if self._twin is not None:
            self._twin.cancel()
            self._twin = None
            if (claim := self._host.images.of(self._key)) is not None:
                self._host.helpers.run(f"letting QEMU at {claim.path}", functools.partial(_unguarded, claim),
                                       lambda result: None, seconds=RELEASE_SECONDS, dispose=lambda result: None,
                                       owner=self._key, lane="qemu", must=True)

    def release(self, done: Callable[[], None]) -> None:
        """Let others have the image; done() is called when they can, or when that takes too long."""
        self.close()
        claim = self._host.images.release(self._tenant) if self._tenant is not None else None
        self.identity = self._wanted = None
        if claim is None:
            done()
            return
        self._host.helpers.run(f"letting go of {claim.path}", functools.partial(_close, claim), lambda result: done(),
                               seconds=RELEASE_SECONDS, dispose=lambda result: None, owner=self._key, path=claim.path,
                               must=True)

    def close(self) -> None:
        """Start nothing any more; the claim stays as it is."""
        self._closed = True
        self._give_up()
        if self._timer is not None:
            self._timer.cancel()

    # Helpers

    def _run(self, properties: Properties, work: Callable[[], Medium], done: Done) -> None:
        def came(result: Medium | OSError) -> None:
            if isinstance(result, OSError):
                done(self.explained(result))
                return
            if result.identity is not None:
                self.has(result.identity)
            done(result)

        self._closed = False
        path = properties.target.path if properties.target else None
        self._give_up = self._host.helpers.run(
            f"opening {properties.target}", work, came, seconds=self._host.policy.open_seconds, dispose=Medium.close,
            owner=self._key, path=path or "")

    def has(self, identity: Identity) -> None:
        """The image was claimed by somebody who asked for wanted()."""
        if self.trouble:
            log.info("%s: its image is claimed again", self._host.disk_name(self._key))
        self.identity, self.trouble = identity, ""
        if self._recovering:
            self._recovering = False
            self._recovered()

    def explained(self, exc: OSError) -> OSError:
        """With names for what helper threads know by number."""
        return exc.named(self._host.disk_name(exc.key)) if isinstance(exc, Taken) else exc


def _uses(claim: Claim) -> list[str]:
    with claim.descriptor() as fd:
        found = users.uses(os.fstat(fd))
    return [f"{claim.path} is in use beside this disk: {use.who}; {use.advice}, or its content may be destroyed"
            for use in found if use.writes]


def _guarded(claim: Claim) -> bool:
    claim.guard()
    return True


def _unguarded(claim: Claim) -> bool:
    claim.unguard()
    return True


def _close(claim: Claim) -> bool:
    claim.close()
    return True

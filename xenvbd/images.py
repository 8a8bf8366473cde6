"""Which image each vbd of this manager has, and which vbds may have one together.

An image is found again by what it is (disk/identity.py), never by its path.  Claims are taken in helper threads, so
everything here may be called from any thread.
"""
from __future__ import annotations

import errno
import functools
import os
import stat
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from xenvbd.disk import places
from xenvbd.disk.claim import Claim, Terms
from xenvbd.disk.locks import let_go
from xenvbd.errors import ClaimError
from xenvbd.handover import drop, keep

Number = tuple[bool, int, int]          # what an open image is told by: see _number()


class Taken(ClaimError):
    """Another vbd of this manager has the image.  key: of that vbd, see Runtime.key()."""

    def __init__(self, number: int, key: str, message: str, *, path: str) -> None:
        """message: holds {disk}, where the vbd's name is to stand."""
        super().__init__(number, message, path=path)
        self.key = key

    def named(self, name: str) -> ClaimError:
        """As it is told to people."""
        return ClaimError(self.errno or errno.EBUSY, self.message.format(disk=name), path=self.path)


@dataclass(frozen=True)
class Tenant:
    """A vbd, as far as it matters to others on the same image.

    key: see Runtime.key(); vm: the domain's /vm/UUID, empty if it has none or that cannot be read; group: the domain
    whose disk it is in the end: its own, or for a stubdomain its target's; None if that cannot be read; lock: see
    Properties; share: it lets others write (xl's w!); gone: it wants no image any more, also not one that is about to
    be claimed."""

    key: str
    domid: int
    vm: str = ""
    group: int | None = None
    read_only: bool = False
    share: bool = False
    lock: bool = True
    gone: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    def beside(self, other: Tenant) -> bool:
        """Whether both may do I/O at the same time: two readers, two that share, or a guest and its stubdomain.

        xl's block script allows a guest and its stubdomain the same (same_vm)."""
        shared = (self.read_only or self.share) and (other.read_only or other.share)
        same_guest = self.group is not None and self.group == other.group and self.domid != other.domid
        return shared or same_guest

    def after(self, other: Tenant) -> bool:
        """Whether it is the same vbd of the same VM in another domain: one that is migrated, or restored, to here."""
        return bool(self.vm) and self.vm == other.vm and self.domid != other.domid


@dataclass
class _Held:
    """An image and its tenants, by key, in the order in which they came."""

    number: Number
    claim: Claim
    tenants: dict[str, Tenant] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)          # those that have a description that does I/O


class Images:
    """All of a manager."""

    def __init__(self, inherited: dict[str, int] | None = None) -> None:
        """inherited: descriptors of claims that an earlier manager has left us, by key; ours from here on."""
        self._lock = threading.Lock()
        self._held: list[_Held] = []
        self._closed = False
        self._inherited: dict[str, int] = {}
        self._shared: set[int] = set()          # of these: ways to a description that another key has as well
        for key, fd in (inherited or {}).items():
            self._add_inherited(key, fd)

    def claim(self, tenant: Tenant, path: str, terms: Terms | None = None, *, allow: Sequence[str] = ("/",)) -> Claim:
        """The claim of the image at that path for a tenant, its own or one that it joins; terms: None: the tenant's.
        Taken: another vbd has it.  Raises ClaimError, TargetError, PolicyError."""
        terms = terms or Terms(tenant.read_only, tenant.share)
        if (held := self._of(tenant.key)) is not None:
            return held.claim
        if terms.expected is not None and (fd := self._inherited.pop(tenant.key, None)) is not None:
            return self._inherit(tenant, path, fd, terms)
        where = places.find(path, allow)
        try:
            number = _number(where)
            if (joined := self._beside(tenant, number, path)) is not None:
                return joined
            claim = Claim.take(path, where, replace(terms, share=terms.share or self._knows(number)))
        finally:
            os.close(where)
        return self._join(tenant, claim)

    def release(self, tenant: Tenant) -> Claim | None:
        """The tenant leaves; the claim that is to be closed, if it was the last of the image."""
        with self._lock:
            tenant.gone.set()
            for held in self._held:
                if held.tenants.pop(tenant.key, None) is None:
                    continue
                held.active.discard(tenant.key)
                drop(tenant.key)
                if held.tenants:
                    keep(next(iter(held.tenants)), held.claim.fd)       # systemd keeps one name of it
                    return None
                self._held.remove(held)
                return held.claim
        return None

    def turn(self, tenant: Tenant) -> None:
        """Whether it may do I/O now.  Taken (EINPROGRESS): another domain of the same VM still has the disk: it came
        first, or is at work, whoever a new manager has heard of first."""
        held, is_later = self._of(tenant.key), False
        with self._lock:
            others = list(held.tenants.values()) if held else []
            active = set(held.active) if held else set()
        for other in others:
            if other.key == tenant.key:
                is_later = True
            elif not tenant.beside(other) and (not is_later or other.key in active):
                raise Taken(errno.EINPROGRESS, other.key, "{disk} of the same VM has it until its domain is destroyed",
                            path=held.claim.path if held else "")

    def alone(self, tenant: Tenant) -> bool:
        """Whether no other vbd may be doing I/O on its image, so that what is found doing some is dead, or not ours."""
        held = self._of(tenant.key)
        with self._lock:
            others = held.active - {tenant.key} if held else set()
        return not (others or tenant.read_only or tenant.share)

    def works(self, tenant: Tenant) -> None:
        """From here on it has a description that does I/O."""
        if (held := self._of(tenant.key)) is not None:
            with self._lock:
                held.active.add(tenant.key)

    def rests(self, key: str) -> None:
        """Its last such description was closed, and all that was begun on it has landed."""
        if (held := self._of(key)) is not None:
            with self._lock:
                held.active.discard(key)

    def of(self, key: str) -> Claim | None:
        """The claim that a vbd has."""
        held = self._of(key)
        return held.claim if held else None

    def leave(self) -> dict[str, int]:
        """The descriptors of all claims by the keys of their vbds, for the manager that comes next; they stay open.
        Vbds that have one image together have one descriptor."""
        with self._lock:
            return {key: held.claim.fd for held in self._held for key in held.tenants}

    def close(self) -> None:
        """Let go of all; what works goes on."""
        with self._lock:
            claims, self._held, self._closed = [held.claim for held in self._held], [], True
            left, self._inherited = self._inherited, {}
        for claim in claims:
            claim.close()
        for fd in left.values():
            os.close(fd)

    def disinherit(self, wanted: Collection[str]) -> list[Callable[[], None]]:
        """Forget what an earlier manager has left for vbds that are none of these.  To be called are what closes it,
        which may take as long as its file system does."""
        closing: list[Callable[[], None]] = []
        for key in self._inherited.keys() - set(wanted):
            drop(key)
            closing.append(functools.partial(self._give_up, self._inherited.pop(key)))
        return closing

    def _add_inherited(self, key: str, fd: int) -> None:
        """Vbds that had an image together were left one descriptor: each gets its own."""
        if fd in self._inherited.values():
            self._shared.add(fd)
            fd = os.dup(fd)
            self._shared.add(fd)
        self._inherited[key] = fd

    def _give_up(self, fd: int) -> None:
        """Close what was inherited; unlocked would be all that have its description."""
        if fd in self._shared:
            os.close(fd)
        else:
            let_go(fd)

    def _inherit(self, tenant: Tenant, path: str, fd: int, terms: Terms) -> Claim:
        """A claim that an earlier manager has left; with others, if it is of an image that they have inherited."""
        claim = Claim.inherited(path, fd, terms)
        with self._lock:
            if not (tenant.gone.is_set() or self._closed):
                held = self._joinable(tenant, _number_of(claim))
                if held is None:
                    self._add(tenant, claim)
                    return claim
                held.tenants[tenant.key] = tenant
                os.close(fd)            # another way to the same description
                return held.claim
        self._give_up(fd)
        raise _gone(path)

    def _of(self, key: str) -> _Held | None:
        with self._lock:
            return next((held for held in self._held if key in held.tenants), None)

    def _knows(self, number: Number) -> bool:
        with self._lock:
            return any(held.number == number for held in self._held)

    def _beside(self, tenant: Tenant, number: Number, path: str) -> Claim | None:
        """The claim that others have of the image, if the tenant can be one of them.  Taken: it cannot."""
        with self._lock:
            self._refuse(tenant, number, path)
            found = self._joinable(tenant, number)
            if found is None or tenant.gone.is_set():
                return None
            found.tenants[tenant.key] = tenant
            keep(tenant.key, found.claim.fd)
            return found.claim

    def _join(self, tenant: Tenant, claim: Claim) -> Claim:
        """Keep a claim that was taken, or the one that the tenant has got meanwhile.  ClaimError: it has gone
        (ECANCELED), or others came first (Taken)."""
        try:
            with self._lock:
                if tenant.gone.is_set() or self._closed:
                    raise _gone(claim.path)
                self._refuse(tenant, _number_of(claim), claim.path)
                held = next((held for held in self._held if tenant.key in held.tenants), None)
                if held is None:
                    self._add(tenant, claim)
                    return claim
        except ClaimError:
            claim.close()
            raise
        claim.close()
        return held.claim

    # With the lock held

    def _refuse(self, tenant: Tenant, number: Number, path: str) -> None:
        """Taken: others have the image, and the tenant cannot be one of them."""
        for held in self._held:
            for other in held.tenants.values() if held.number == number else ():
                if other.key != tenant.key and not (tenant.beside(other) or tenant.after(other)):
                    raise Taken(errno.EBUSY, other.key, _why(tenant, other), path=path)

    def _joinable(self, tenant: Tenant, number: Number) -> _Held | None:
        """What others have of the image, if it is enough for the tenant."""
        return next((held for held in reversed(self._held) if held.number == number
                     and (tenant.read_only or not held.claim.terms.read_only)), None)

    def _add(self, tenant: Tenant, claim: Claim) -> None:
        self._held.append(_Held(_number_of(claim), claim, {tenant.key: tenant}))
        keep(tenant.key, claim.fd)


def _number(where: int) -> Number:
    """What tells an open image from all others that are open: a device's number, or a file's device and inode."""
    status = os.fstat(where)
    is_block = stat.S_ISBLK(status.st_mode)
    return (True, status.st_rdev, 0) if is_block else (False, status.st_dev, status.st_ino)


def _number_of(claim: Claim) -> Number:
    return (claim.identity.is_block, *claim.identity.number)


def _gone(path: str) -> ClaimError:
    return ClaimError(errno.ECANCELED, "the disk was detached meanwhile", path=path)


def _why(tenant: Tenant, other: Tenant) -> str:
    """Why two vbds cannot have one image."""
    message = "it is the image of {disk}; detach it there first"
    if tenant.group is None or other.group is None:
        message += " (whether one is the other's stubdomain cannot be read from this domain)"
    return message

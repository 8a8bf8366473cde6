"""The areas of one vbd in xenstore, the backend's, the frontend's and libxl's copy, and every way in which we read or
write them.

A write makes a node that is missing, so a bare one would bring a removed area back to life, with nobody to remove it
again.  Each is therefore made in a transaction that looks first; Gone says that the area is not ours any more.
"""
from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from xenvbd import features
from xenvbd.errors import ClaimError, StoreError
from xenvbd.features import Agreement, Properties
from xenvbd.store import Store, Transaction
from xenvbd.xenbus import XenbusState, parse_state

_NEW = XenbusState.INITIALISING
MAX_ERROR = 500                     # bytes of an error node; a guest reads it, xenstored bounds it


class Gone(StoreError):
    """The backend area has been removed, or replaced by a new one of the same name."""


class Leaving(StoreError):
    """A toolstack is taking the disk away (online=0, state Closing or Closed): what was to be written would hide that
    from the guest.  state is what it wrote."""

    state: XenbusState


@dataclass(frozen=True)
class Seen:
    """What the two areas say now, as it is written there; None: no such node."""

    backend: bytes | None
    online: bytes | None
    frontend: bytes | None


class Areas:
    """The areas of the vbd (kind, domid, devid) whose backend is backend_domid."""

    def __init__(self, store: Store, backend_domid: int, kind: str, domid: int, devid: int) -> None:
        self.store, self.backend_domid, self.kind = store, backend_domid, kind
        self.domid, self.devid = domid, devid
        self.backend = features.backend_path(backend_domid, kind, domid, devid)
        self.frontend = features.frontend_path(domid, devid)
        self.frontend_state = f"{self.frontend}/{features.STATE}"
        self.libxl = features.libxl_path(domid, devid)
        self._unsure = False        # whether create() or publish() was carried out when the store went away
        self.published = False      # from then on a backend in state Initialising is somebody's new area

    def see(self) -> Seen:
        """Both sides now; backend and online are None if the area is not ours, or not any more.

        The frontend's node is not part of the transaction: a guest that keeps writing it could make it fail."""
        def read(tx: Transaction) -> tuple[bytes | None, bytes | None]:
            state, online = (tx.get(f"{self.backend}/{name}") for name in (features.STATE, features.ONLINE))
            return (state, online) if self._is_ours(tx) else (None, None)

        state, online = self.store.transaction(read)
        return Seen(state, online, self._frontend())

    def _frontend(self) -> bytes | None:
        """The frontend's state.  To a driver domain xenstored says EACCES of an area that is gone: what it may read was
        gone with it."""
        try:
            return self.store.get(self.frontend_state)
        except StoreError as exc:
            if exc.errno != errno.EACCES:
                raise
            return None

    def properties(self) -> Properties:
        """What a toolstack asks for.  PropertyError names the node that is wrong."""
        return self.store.transaction(lambda tx: features.read_properties(
            lambda name: tx.get(f"{self.backend}/{name}"), self.backend_domid, self.kind, self.domid, self.devid))

    def agreement(self, properties: Properties) -> Agreement:
        """What the frontend asks for.  ProtocolError names the node that is wrong."""
        return self.store.transaction(lambda tx: features.read_agreement(
            lambda name: tx.get(f"{self.frontend}/{name}"), properties))

    def create(self, properties: Properties, keys: dict[str, bytes]) -> None:
        """Make both areas, complete, with the backend in InitWait, and libxl's copy if this domain is libxl's.
        ClaimError if either exists.

        If the store goes away meanwhile, call it again: whether the areas were made is found out then."""
        identity = features.identity_keys(properties, self.kind)
        theirs = features.frontend_keys(properties, self.backend_domid, self.kind)
        copy = features.libxl_keys(properties, self.backend_domid, self.kind)

        def write(tx: Transaction) -> None:
            if self._unsure and _holds(tx, self.backend, identity | keys):
                return
            for path in (self.backend, self.frontend):
                if tx.exists(path):
                    raise ClaimError(errno.EEXIST, "the vdev is taken", path=path)
            tx.mkdir(self.backend)
            tx.set_perms(self.backend, features.backend_permissions(self.backend_domid, self.domid))
            tx.mkdir(self.frontend)
            tx.set_perms(self.frontend, features.frontend_permissions(self.backend_domid, self.domid))
            _write_all(tx, self.frontend, theirs)
            if tx.exists(f"{features.LIBXL}/{self.domid}"):
                tx.rm(self.libxl)
                _write_all(tx, self.libxl, copy)
            _write_all(tx, self.backend, identity | keys)
            _write_state(tx, self.backend, XenbusState.INITWAIT)

        try:
            self.store.transaction(write)
        except StoreError:
            self._unsure = not self.store.connected
            raise
        self.published = True

    def publish(self, keys: dict[str, bytes]) -> None:
        """Write the backend's keys and, last, InitWait.  Gone, also if another backend was faster; Leaving.

        If the store goes away meanwhile, call it again."""
        def write(tx: Transaction) -> None:
            self._refuse_if_leaving(tx)
            if not self.published and parse_state(tx.get(f"{self.backend}/{features.STATE}")) is not _NEW:
                if self._unsure and _holds(tx, self.backend, keys):
                    return
                raise Gone(errno.EBUSY, "another backend has taken the disk", path=self.backend)
            _write_all(tx, self.backend, keys)
            _write_state(tx, self.backend, XenbusState.INITWAIT)
        try:
            self._guarded(write)
        except StoreError:
            self._unsure = not self.store.connected
            raise
        self.published = True

    def set_state(self, state: XenbusState) -> None:
        """Gone; Leaving if the state would invite the guest."""
        def write(tx: Transaction) -> None:
            if state in (XenbusState.INITWAIT, XenbusState.CONNECTED):
                self._refuse_if_leaving(tx)
            _write_state(tx, self.backend, state)
        self._guarded(write)

    def report(self, message: str) -> None:
        """Tell the toolstack and whoever looks why the device does not work.  Gone."""
        text = message.encode("ascii", "backslashreplace")[:MAX_ERROR]
        self._guarded(lambda tx: _write_all(tx, self.backend, {
            features.ERROR: text, features.HOTPLUG_ERROR: text, features.HOTPLUG_STATUS: b"error"}))

    def clear_error(self) -> None:
        """What was reported holds no longer.  Gone."""
        def write(tx: Transaction) -> None:
            for name in (features.ERROR, features.HOTPLUG_ERROR):
                tx.rm(f"{self.backend}/{name}")
            tx.write(f"{self.backend}/{features.HOTPLUG_STATUS}", b"connected")
        self._guarded(write)

    def take_offline(self, *, closing: bool) -> None:
        """The disk is to go: online 0 and, if it is closing, that state.  Gone."""
        def write(tx: Transaction) -> None:
            tx.write(f"{self.backend}/{features.ONLINE}", b"0")
            if closing:
                _write_state(tx, self.backend, XenbusState.CLOSING)
        self._guarded(write)

    def remove(self, *, frontend: bool) -> None:
        """Remove the backend's area, if it is still the one we know, and the frontend's and libxl's with it if asked.

        The directories above are removed too if nothing else is in them, unless they are another domain's."""
        def remove(tx: Transaction) -> None:
            if tx.exists(self.backend):
                if not self._is_ours(tx):
                    return
                _remove(tx, self.backend, prune=self.backend_domid == 0)
            for path in (self.frontend, self.libxl) if frontend else ():
                if tx.get(f"{path}/{features.BACKEND}") == self.backend.encode():
                    _remove(tx, path, prune=True)
        self.store.transaction(remove)

    def _guarded(self, write: Callable[[Transaction], None]) -> None:
        def body(tx: Transaction) -> None:
            if not self._is_ours(tx):
                raise Gone(errno.ENOENT, "the backend area was removed", path=self.backend)
            write(tx)
        self.store.transaction(body)

    def _refuse_if_leaving(self, tx: Transaction) -> None:
        state = parse_state(tx.get(f"{self.backend}/{features.STATE}"))
        offline = tx.get(f"{self.backend}/{features.ONLINE}") == b"0"
        if offline and state in (XenbusState.CLOSING, XenbusState.CLOSED):
            leaving = Leaving(errno.ESHUTDOWN, "the toolstack is taking the disk away", path=self.backend)
            leaving.state = state
            raise leaving

    def _is_ours(self, tx: Transaction) -> bool:
        state = tx.get(f"{self.backend}/{features.STATE}")
        if tx.get(f"{self.backend}/{features.FRONTEND_ID}") is None or state is None:
            return False
        return not (self.published and state == b"%d" % XenbusState.INITIALISING)


def _holds(tx: Transaction, area: str, keys: dict[str, bytes]) -> bool:
    return all(tx.get(f"{area}/{name}") == value for name, value in keys.items())


def _remove(tx: Transaction, path: str, *, prune: bool) -> None:
    """Remove an area, and the directory that it was the last one of."""
    tx.rm(path)
    parent = path.rpartition("/")[0]
    if prune and tx.exists(parent) and not tx.ls(parent):
        tx.rm(parent)


def _write_all(tx: Transaction, area: str, keys: dict[str, bytes]) -> None:
    for name, value in keys.items():
        tx.write(f"{area}/{name}", value)


def _write_state(tx: Transaction, area: str, state: XenbusState) -> None:
    tx.write(f"{area}/{features.STATE}", b"%d" % state)

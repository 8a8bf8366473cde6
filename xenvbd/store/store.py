"""Store: what the daemon asks of xenstored.  Paths are str, values are bytes, errors are StoreError."""
from __future__ import annotations

import contextlib
import errno
import random
import re
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

from pyxs import helpers
from pyxs._internal import Op
from pyxs.exceptions import PyXSError

from xenvbd.errors import StoreError
from xenvbd.store.session import Session
from xenvbd.store.transaction import Transaction
from xenvbd.trace import event

T = TypeVar("T")

DIRECTORY_PART = 22         # xs_wire.h; pyxs's Op ends before it
PART_MIN = 1024             # bytes in a part of a directory: unless it is the last, only one name more does not fit
ATTEMPTS = 6                # of a transaction: the first, and five more after EAGAIN
BACKOFF = 0.001             # seconds; the longest pause before the first retry, doubled for each further one


def _encode(path: str, check: Callable[[bytes], bytes] = helpers.check_path) -> bytes:
    """The path as sent, without its NUL; StoreError EINVAL if xenstored would not take it.

    Stricter than pyxs, which lets a trailing NUL or newline pass."""
    try:
        raw = path.encode("ascii")
        if raw[-1:] in (b"\0", b"\n"):
            raise ValueError
        return check(raw)
    except (ValueError, PyXSError):
        raise StoreError(errno.EINVAL, "not a valid xenstore path", path=repr(path)[1:-1]) from None


def _decode(name: bytes) -> str:
    """A name from the store; it never fails, whatever bytes a guest managed to get in."""
    return name.decode("ascii", "backslashreplace")


class Watch:
    """A watch; its callback gets the path that changed each time it fires, and once at the start."""

    def __init__(self, store: Store, path: str, token: bytes, callback: Callable[[str], None]) -> None:
        self.path = path
        self._store = store
        self._token = token
        self._callback = callback

    def __repr__(self) -> str:
        return f"Watch({self.path!r})"

    def cancel(self) -> None:
        """Stop watching: no callback after this, not even for events already here.  May be called twice."""
        self._store._unwatch(self)


class Store:
    """A session with xenstored, at a UNIX socket or a character device such as /dev/xen/xenbus.

    A request waits for its answer, at most `timeout` seconds; a store that does not answer counts as gone.
    When the connection is gone, requests raise StoreError ENOTCONN until reconnect().  Not for threads."""

    def __init__(self, path: str, *, timeout: float = 5.0) -> None:
        self._watches: dict[bytes, Watch] = {}
        self._next_token = 0
        self._domid: int | None = None
        self._session = Session(path, timeout)
        self._request = self._session.request
        try:
            self._session.open()
        except BaseException:
            self._session.close()
            raise

    def __repr__(self) -> str:
        return f"Store({self._session.path!r})"

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    # Nodes

    def read(self, path: str, tx: int = 0) -> bytes:
        """The value of a node, byte for byte.  Raises StoreError ENOENT, EACCES."""
        value = self._request(Op.READ, _encode(path) + b"\0", tx, path)
        event("xs_node_read", path=path, value=value)
        return value

    def get(self, path: str, default: bytes | None = None, tx: int = 0) -> bytes | None:
        """The value of a node, or default if it does not exist."""
        try:
            return self.read(path, tx)
        except StoreError as error:
            if error.errno != errno.ENOENT:
                raise
            return default

    def exists(self, path: str, tx: int = 0) -> bool:
        """Whether the node exists."""
        return self.get(path, None, tx) is not None

    def write(self, path: str, value: bytes | str, tx: int = 0) -> None:
        """Set a node's value, creating it and its parents.  A str is sent as UTF-8."""
        data = value.encode() if isinstance(value, str) else value
        event("xs_node_vprintf", path=path, value=data)
        self._request(Op.WRITE, _encode(path) + b"\0" + data, tx, path)

    def mkdir(self, path: str, tx: int = 0) -> None:
        """Create a node and its parents with empty values; nothing happens if it exists."""
        event("xs_node_create", path=path)
        self._request(Op.MKDIR, _encode(path) + b"\0", tx, path)

    def rm(self, path: str, tx: int = 0) -> None:
        """Remove a node and all below it.  That it is missing, or its parent is, is no error."""
        event("xs_node_destroy", path=path)
        try:
            self._request(Op.RM, _encode(path) + b"\0", tx, path)
        except StoreError as error:
            if error.errno != errno.ENOENT:
                raise

    def ls(self, path: str, tx: int = 0) -> list[str]:
        """The names of a node's children, however many there are."""
        try:
            names = self._request(Op.DIRECTORY, _encode(path) + b"\0", tx, path)
        except StoreError as error:
            if error.errno != errno.E2BIG:
                raise
            names = self._long_directory(path, tx)
        return [_decode(name) for name in names.split(b"\0")[:-1]]

    def _long_directory(self, path: str, tx: int) -> bytes:
        """A child list longer than a payload, each name with its NUL; begun again if it changes meanwhile."""
        for _ in range(ATTEMPTS):
            generation, names, last = self._directory_part(path, 0, tx)
            current = generation
            while not last and current == generation:
                current, part, last = self._directory_part(path, len(names), tx)
                names += part
            if current == generation:
                return names
        raise StoreError(errno.EAGAIN, "the directory keeps changing", path=path)

    def _directory_part(self, path: str, offset: int, tx: int) -> tuple[bytes, bytes, bool]:
        """The directory's generation, some names, and whether they are the last: an empty name says so."""
        reply = self._request(DIRECTORY_PART, b"%s\0%d\0" % (_encode(path), offset), tx, path)
        generation, _, names = reply.partition(b"\0")
        last = names == b"\0" or names.endswith(b"\0\0")
        if len(names) < PART_MIN and not last:
            raise StoreError(errno.EPROTO, "a part of a directory that is too short", path=path)
        return generation, names[:-1] if last else names, last

    def get_perms(self, path: str, tx: int = 0) -> list[str]:
        """A node's permissions, the owner's first: ["n0", "r5"]."""
        reply = self._request(Op.GET_PERMS, _encode(path) + b"\0", tx, path)
        return [_decode(perm) for perm in reply.split(b"\0")[:-1]]

    def set_perms(self, path: str, perms: Sequence[str], tx: int = 0) -> None:
        """Set a node's permissions: ["n5", "r0"] is owned by 5, readable by 0, and not for others.

        A letter (n none, r read, w write, b both) and a domid each.  The first names the owner, who may do
        anything, with what all others may do."""
        if not perms or not all(re.fullmatch("[nrwb][0-9]{1,5}", perm) for perm in perms):
            raise StoreError(errno.EINVAL, f"not permissions: {list(perms)!r}", path=path)
        strings = [perm.encode() for perm in perms]
        self._request(Op.SET_PERMS, b"\0".join([_encode(path), *strings, b""]), tx, path)

    # Domains

    @property
    def domid(self) -> int:
        """Our own domain, as its `domid` node says; 0 if there is none."""
        if self._domid is None:
            value = self.get("domid") or b"0"
            self._domid = int(value) if re.fullmatch(b"[0-9]{1,5}", value) else 0
        return self._domid

    def domain_path(self, domid: int) -> str:
        """A domain's own directory: /local/domain/<domid>."""
        return _decode(self._request(Op.GET_DOMAIN_PATH, b"%d\0" % domid).rstrip(b"\0"))

    def is_introduced(self, domid: int) -> bool:
        """Whether xenstored serves the domain.  For a privileged domain only."""
        return self._request(Op.IS_DOMAIN_INTRODUCED, b"%d\0" % domid) == b"T\0"

    def introduce(self, domid: int, gfn: int = 0, port: int = 1) -> None:
        """Make xenstored serve a domain, over its page gfn and its event channel port.  Privileged."""
        self._request(Op.INTRODUCE, b"%d\0%d\0%d\0" % (domid, gfn, port))

    def release(self, domid: int) -> None:
        """Make xenstored forget a domain and remove the nodes it owns.  Privileged."""
        self._request(Op.RELEASE, b"%d\0" % domid)

    # Transactions

    def transaction(self, fn: Callable[[Transaction], T]) -> T:
        """Run fn in a transaction, commit, and return what fn returned.

        A conflict runs fn again, a bounded number of times after short random pauses (XSA-206), and raises
        EAGAIN in the end.  If fn raises, the transaction is aborted.  Either way nothing has happened."""
        for attempt in range(ATTEMPTS):
            transaction = Transaction(self, self._begin())
            try:
                result = fn(transaction)
            except BaseException:
                self._abort(transaction)
                raise
            if self._commit(transaction):
                return result
            time.sleep(random.uniform(0, BACKOFF * 2 ** attempt))
        raise StoreError(errno.EAGAIN, f"other changes conflicted with the transaction {ATTEMPTS} times")

    def _begin(self) -> int:
        """The id of a new transaction."""
        reply = self._request(Op.TRANSACTION_START, b"\0")
        if not re.fullmatch(b"[0-9]{1,10}\0?", reply):
            raise StoreError(errno.EPROTO, f"not a transaction id: {reply!r}")
        return int(reply.rstrip(b"\0"))

    def _commit(self, transaction: Transaction) -> bool:
        """Whether the transaction took place; False if another change was in its way."""
        try:
            transaction.end(commit=True)
        except StoreError as error:
            if error.errno != errno.EAGAIN:
                raise
            return False
        return True

    def _abort(self, transaction: Transaction) -> None:
        """End without a commit.  An error in this would hide the one that made us abort."""
        try:
            transaction.end(commit=False)
        except StoreError:
            return

    # Watches

    def watch(self, path: str, callback: Callable[[str], None]) -> Watch:
        """Watch a node and all below it, or "@introduceDomain" or "@releaseDomain".

        Fires once at the start.  For a relative path the callback gets relative paths.  Callbacks run in
        dispatch() only, and may use the store as they like."""
        self._next_token += 1
        watch = Watch(self, path, b"%d" % self._next_token, callback)
        self._watches[watch._token] = watch
        try:
            self._set_watch(watch)
        except BaseException:
            self._watches.pop(watch._token, None)
            raise
        return watch

    def _set_watch(self, watch: Watch) -> None:
        event("xs_node_watch", path=watch.path)
        raw = _encode(watch.path, helpers.check_watch_path)
        self._request(Op.WATCH, raw + b"\0" + watch._token + b"\0", path=watch.path)

    def _unwatch(self, watch: Watch) -> None:
        """Forget a watch.  A store that refuses keeps it until the connection ends; its events are nobody's here."""
        if self._watches.pop(watch._token, None) is None or not self.connected:
            return
        event("xs_node_unwatch", path=watch.path)
        with contextlib.suppress(StoreError):
            self._request(Op.UNWATCH, _encode(watch.path) + b"\0" + watch._token + b"\0", path=watch.path)

    def fileno(self) -> int:
        """A descriptor that is readable when dispatch() has something to do; the same until close()."""
        return self._session.fileno()

    def dispatch(self) -> int:
        """Deliver the events that are here, without waiting; returns how many callbacks ran.

        Events that these callbacks cause are for the next call.  A callback's exception comes out here, and
        the events behind it stay.  A connection found lost is told to on_lost, or raised if there is none."""
        if self.connected:
            try:
                self._session.receive()
            except StoreError:
                if self.on_lost is None:
                    raise
        try:
            return sum(self._deliver() for _ in range(len(self._session.events)))
        finally:
            self._session.signal()

    def _deliver(self) -> int:
        """Run the callback of the oldest event; 0 if there is none any more, or its watch is cancelled."""
        fired = next(iter(self._session.events), None)
        if fired is None:
            return 0
        del self._session.events[fired]
        watch = self._watches.get(fired[0])
        if watch is None:
            return 0
        watch._callback(_decode(fired[1]))
        return 1

    # Connection

    @property
    def on_lost(self) -> Callable[[StoreError], None] | None:
        """Called with the reason when the connection is lost, once, wherever that is noticed."""
        return self._session.on_lost

    @on_lost.setter
    def on_lost(self, callback: Callable[[StoreError], None] | None) -> None:
        self._session.on_lost = callback

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as we have noticed."""
        return self._session.connected

    def reconnect(self) -> None:
        """Connect anew and set all watches again; each fires, as at its start.

        Events not delivered yet are dropped: who watches looks at everything now anyway.  Raises StoreError, without
        a connection: one without all watches would be deaf."""
        self._session.open()
        try:
            for watch in list(self._watches.values()):
                self._set_watch(watch)
        except StoreError:
            self._session.drop()
            raise

    def close(self) -> None:
        """End the session; xenstored forgets its watches and transactions."""
        self._watches.clear()
        self._session.close()

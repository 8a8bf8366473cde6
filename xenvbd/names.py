"""The names that the domains with disks here have now, for what is shown and logged.

A name is a label: root may change it, and give it to another domain, at any time.  So nothing is found by what is kept
here (domains.find() asks the store), and it is kept by domain, which is a domid and its handle (domains.identity()): a
domain that is gone keeps its last name until its disks are gone too.
"""
from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from xenvbd import domains
from xenvbd.errors import StoreError
from xenvbd.store import Store, Watch
from xenvbd.text import quoted
from xenvbd.trace import Limiter

log = logging.getLogger("xenvbd")


class Names:
    """One watch for each domain that is followed, but for those whose names may not be read."""

    def __init__(self, store: Store, renamed: Callable[[int], None]) -> None:
        """renamed: called with a domid after a domain was renamed."""
        self._store, self._renamed = store, renamed
        self._names: dict[int, dict[str, str]] = {}         # by domid, then by handle
        self._watches: dict[int, Watch] = {}
        self._limiter = Limiter()

    def of(self, domid: int, handle: str) -> str:
        """The domain's name, or its number if it has none that can be told from a number, or may not be read."""
        return self._names.get(domid, {}).get(handle, str(domid))

    def follow(self, domid: int, handle: str, last: str = "") -> None:
        """Know this domain's name from now on.  last: what it was called, in case it is gone.  StoreError."""
        path = domains.name_path(domid)
        if domid not in self._watches and self._may_read(path):
            self._watches[domid] = self._store.watch(path, lambda path: self._look(domid))
        self._names.setdefault(domid, {}).setdefault(handle, last or str(domid))
        self._look(domid, said=False)

    def forget(self, domid: int) -> None:
        """Its last disk is gone."""
        self._names.pop(domid, None)
        if watch := self._watches.pop(domid, None):
            watch.cancel()

    def settle(self) -> None:
        """Know every name that was given before this call: the store tells of it before it answers what comes later."""
        try:
            self._store.get("domid")
            self._store.dispatch()
        except StoreError as exc:
            log.debug("names may be old: %s", exc)

    def _look(self, domid: int, *, said: bool = True) -> None:
        """What the store cannot say now it says when it is back: then all watches fire."""
        try:
            handle, name = domains.identity(self._store, domid), domains.name(self._store, domid)
        except StoreError as exc:
            log.debug("domain %d: its name cannot be read: %s", domid, exc)
            return
        known = self._names.get(domid, {})
        if handle is None or known.get(handle, name) == name:
            return
        before, known[handle] = known[handle], name
        if said:
            self._limiter.log(log, logging.INFO, "domain %d is named %s now, it was %s", domid, quoted(name),
                              quoted(before))
            self._renamed(domid)

    def _may_read(self, path: str) -> bool:
        try:
            self._store.get(path)
        except StoreError as exc:
            if exc.errno != errno.EACCES:
                raise
            return False
        return True

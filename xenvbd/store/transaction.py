"""The store as one transaction sees it: the same verbs as Store, bound to a transaction's id."""
from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyxs._internal import Op

from xenvbd.errors import StoreError

if TYPE_CHECKING:
    from xenvbd.store.store import Store


class Transaction:
    """Valid inside the function given to Store.transaction(); any use after that raises StoreError EINVAL."""

    def __init__(self, store: Store, id: int) -> None:
        self._store = store
        self._epoch = store._session.epoch
        self._id: int | None = id

    @property
    def id(self) -> int:
        """The transaction's id on the wire, if it still means this transaction.

        Raises StoreError EINVAL after its end, ECONNRESET if its connection is gone: a new one may use the
        same id for another."""
        if self._id is None:
            raise StoreError(errno.EINVAL, "the transaction is over")
        if self._epoch != self._store._session.epoch:
            raise StoreError(errno.ECONNRESET, "the transaction was lost with its connection")
        return self._id

    def read(self, path: str) -> bytes:
        """As Store.read."""
        return self._store.read(path, self.id)

    def get(self, path: str, default: bytes | None = None) -> bytes | None:
        """As Store.get."""
        return self._store.get(path, default, self.id)

    def exists(self, path: str) -> bool:
        """As Store.exists."""
        return self._store.exists(path, self.id)

    def write(self, path: str, value: bytes | str) -> None:
        """As Store.write."""
        self._store.write(path, value, self.id)

    def mkdir(self, path: str) -> None:
        """As Store.mkdir."""
        self._store.mkdir(path, self.id)

    def rm(self, path: str) -> None:
        """As Store.rm."""
        self._store.rm(path, self.id)

    def ls(self, path: str) -> list[str]:
        """As Store.ls."""
        return self._store.ls(path, self.id)

    def get_perms(self, path: str) -> list[str]:
        """As Store.get_perms."""
        return self._store.get_perms(path, self.id)

    def set_perms(self, path: str, perms: Sequence[str]) -> None:
        """As Store.set_perms."""
        self._store.set_perms(path, perms, self.id)

    def end(self, commit: bool) -> None:
        """Commit, or abort.  Raises StoreError EAGAIN if another change conflicts: nothing has happened."""
        id = self.id
        self._id = None
        self._store._request(Op.TRANSACTION_END, b"T\0" if commit else b"F\0", id)

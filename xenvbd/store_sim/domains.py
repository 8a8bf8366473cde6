"""What the simulated store knows of domains: which are served, since when, and how many nodes each owns."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from xenvbd.store_sim.node import IGNORE, Perm, Perms

FIRST_RESERVED = 0x7FF0     # DOMID_FIRST_RESERVED of xen.h
SELF = 0x7FF0               # DOMID_SELF


class Domains:
    """Domains by number.  A domain is known from when a permission first names it, until it is released."""

    def __init__(self) -> None:
        self.introduced: set[int] = {0}
        self.entries: Counter[int] = Counter()      # nodes owned, for the quota
        self.targets: dict[int, int] = {}           # a stub domain and the guest it acts for
        self._since: dict[int, int] = {0: 0}        # the store's generation when the domain became known

    def know(self, domids: Iterable[int], generation: int) -> None:
        """Note the domains that exist from now on; reserved numbers never do."""
        for domid in domids:
            if domid < FIRST_RESERVED:
                self._since.setdefault(domid, generation)

    def is_known(self, domid: int) -> bool:
        """Whether the domain exists, as far as the store has heard."""
        return domid in self._since

    def forget(self, domid: int) -> None:
        """The domain is gone: the number stands for nobody until it is used again."""
        self.introduced.discard(domid)
        self.targets.pop(domid, None)
        self._since.pop(domid, None)

    def expire(self, perms: Perms, generation: int) -> Perms:
        """The permissions of a node of this generation, without rights for domains younger than it.

        A new domain must not inherit what its number's former owner was allowed (XSA-322)."""
        if len(perms) == 1:
            return perms
        return perms[:1] + tuple(
            perm if perm.bits & IGNORE or self._since.get(perm.domid, generation + 1) <= generation
            else Perm(perm.domid, perm.bits | IGNORE) for perm in perms[1:])

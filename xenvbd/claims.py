"""What the manager may claim: the kinds it was given, less what another backend has, and what becomes of the rest."""
from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence

from xenvbd import domains, features, libxl, rivals
from xenvbd.area import Areas
from xenvbd.errors import ClaimError, StoreError
from xenvbd.loop import Loop
from xenvbd.reign import Reign
from xenvbd.rivals import Rival
from xenvbd.store import Store
from xenvbd.xenbus import XenbusState, parse_state

REPORT_SECONDS = 2.0        # for a rival to take what we leave to it, before the toolstack is told

log = logging.getLogger("xenvbd")
Key = tuple[str, int, int]          # kind, domid, devid
FindRival = Callable[[str, int | None], Rival | None]


class Claims:
    """What is ours among the areas of backend_domid.  place: our runtime directory; rival: as rivals.find."""

    def __init__(self, loop: Loop, store: Store, backend_domid: int, place: str,
                 rival: FindRival = rivals.find) -> None:
        self.loop, self.store, self.backend_domid, self.rival = loop, store, backend_domid, rival
        self.reign = Reign(store, backend_domid, place)
        self.kinds: tuple[str, ...] = ()
        self.refused: dict[Key, str] = {}       # areas that were left alone, and why

    def take(self, kinds: Sequence[str]) -> None:
        """Claim these kinds from now on.  ClaimError, and nothing has changed, if a rival, or another
        xenvbd, has one of them."""
        for kind in kinds:
            self._refuse(self.rival(kind, None), f"{domains.path(self.backend_domid)}/backend/{kind}")
        self.reign.take(kinds)
        self.kinds = tuple(kinds)
        self.refused.clear()

    def renew(self) -> None:
        """xenstored has lost its tree: claim again what was claimed, or nothing, if another xenvbd was faster."""
        try:
            self.reign.renew()
        except ClaimError as exc:
            log.error("nothing new is served: %s", exc)
            self.kinds = ()

    def check(self, key: Key) -> None:
        """ClaimError if this area, which is new, is another backend's by right."""
        kind, domid, devid = key
        area = features.backend_path(self.backend_domid, kind, domid, devid)
        self._refuse(self.rival(kind, domid), area)
        if kind == "qdisk" and self.backend_domid == 0 and libxl.guest_type(self.store, domid) == "hvm":
            self._refuse(Rival("the QEMU of this HVM guest", "attach it with xenvbd attach"), area)

    def leave(self, key: Key, reason: str) -> None:
        """Leave an area alone; say so once, in the area too if it turns out that nobody serves it."""
        if key in self.refused:
            return
        self.refused[key] = reason
        log.warning("%s: left alone: %s", "/".join(map(str, key)), reason)
        self.loop.later(REPORT_SECONDS, lambda: self._report(key))

    def forget(self, key: Key) -> None:
        """The area has gone, or is being served."""
        self.refused.pop(key, None)

    def _refuse(self, rival: Rival | None, path: str) -> None:
        if rival is not None:
            raise ClaimError(errno.EBUSY, f"{rival.name} has it; {rival.advice}", path=path)

    def _report(self, key: Key) -> None:
        """Tell the toolstack, unless a rival has taken the area meanwhile."""
        areas = Areas(self.store, self.backend_domid, *key)
        try:
            if key in self.refused and parse_state(areas.see().backend) is XenbusState.INITIALISING:
                areas.report(self.refused[key])
        except StoreError as exc:
            log.info("%s: cannot be told: %s", areas.backend, exc)

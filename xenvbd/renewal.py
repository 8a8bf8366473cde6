"""What an image has become between two connections: looked at once for each offer, by a helper thread."""
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from xenvbd.holding import Holding
from xenvbd.medium import Medium
from xenvbd.properties import DiskFacts, Properties
from xenvbd.trace import Limiter

log = logging.getLogger("xenvbd")


class Renewal:
    """The facts of one image, for the next offer."""

    def __init__(self, holding: Holding, came: Callable[[], None]) -> None:
        """came: called when there is an answer."""
        self._holding, self._came = holding, came
        self._looking = False
        self._limiter = Limiter()
        self._answer: Medium | OSError | None = None

    def is_there(self, properties: Properties, engine: str) -> bool:
        """Whether there is an answer; if not, it is on its way."""
        if self._answer is None and not self._looking:
            self._looking = True
            self._holding.survey(properties, engine, self._answered)
        return self._answer is not None

    def take(self, before: DiskFacts | None) -> DiskFacts | None:
        """The facts; None if there are none to be had, which was logged.  before: as they were: what a guest has
        written since is not looked for."""
        answer, self._answer = self._answer, None
        if not isinstance(answer, Medium):
            return None
        return replace(answer.facts, content=before.content if before else "")

    def _answered(self, answer: Medium | OSError) -> None:
        self._looking, self._answer = False, answer
        if isinstance(answer, OSError):
            self._limiter.log(log, logging.WARNING, "%s; the disk is offered as it was", answer)
        self._came()

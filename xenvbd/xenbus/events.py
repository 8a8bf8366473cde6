"""What can happen to a device."""
from __future__ import annotations

from dataclasses import dataclass

from xenvbd.xenbus.states import XenbusState


@dataclass(frozen=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True)
class Realize(Event):
    """The device is to be published: an area was found with online=1 and state=1, or we are to create one.

    After a failure: a toolstack wrote state=1 anew, or there is reason to try again."""


@dataclass(frozen=True)
class Published(Event):
    """Publish is done: the area says InitWait."""


@dataclass(frozen=True)
class PublishFailed(Event):
    """Publish failed, and wrote nothing."""

    message: str


@dataclass(frozen=True)
class FrontendState(Event):
    """The frontend's state node, read now; None if it is gone."""

    state: XenbusState | None


@dataclass(frozen=True)
class BackendState(Event):
    """The backend's state and online nodes, read now in one transaction; None if the area is gone.

    Not to be read before all earlier actions are written: an older state of our own would be taken for a wish of
    the toolstack."""

    state: XenbusState | None
    online: bool = False


@dataclass(frozen=True)
class RingChanged(Event):
    """The frontend's nodes, read now, are of another ring than the one that is served, or that could not be."""


@dataclass(frozen=True)
class TryAgain(Event):
    """What a Connect failed for may have passed."""


@dataclass(frozen=True)
class PlaneStarted(Event):
    """Connect or Adopt is done; anew: the frontend had begun the ring anew, and may wait to be told."""

    anew: bool = False


@dataclass(frozen=True)
class PlaneFailed(Event):
    """Connect failed, and left nothing behind."""

    message: str


@dataclass(frozen=True)
class PlaneStopped(Event):
    """Disconnect is done: all requests are answered, all is unmapped and unbound."""


@dataclass(frozen=True)
class PlaneBroken(Event):
    """The plane stopped serving a ring for good, because the frontend broke it; it still has it mapped."""

    message: str


@dataclass(frozen=True)
class PlaneDied(Event):
    """The process of the plane is gone; its journal is there, so that another can take its ring over."""

    message: str


@dataclass(frozen=True)
class PlaneLost(Event):
    """The process of the plane is gone, and the plane with it for good."""

    message: str


@dataclass(frozen=True)
class Unplug(Event):
    """An administrator detaches the disk; force: without waiting for the frontend."""

    force: bool = False


@dataclass(frozen=True)
class DomainGone(Event):
    """The frontend's domain is dead or released."""

"""What a device can be told to do.  device.py does it."""
from __future__ import annotations

from dataclasses import dataclass

from xenvbd.xenbus.states import XenbusState


@dataclass(frozen=True)
class Action:
    """Something to be done, in the order given."""

    def __str__(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Publish(Action):
    """Open the target, validate; create the areas if they are ours; write all nodes and InitWait in one transaction,
    which checks that the area exists and still says Initialising.  Answer Published or PublishFailed."""


@dataclass(frozen=True)
class Connect(Action):
    """Read the frontend's nodes in one transaction and start the plane.  Answer PlaneStarted or PlaneFailed."""


@dataclass(frozen=True)
class Adopt(Action):
    """Start a new plane on the ring of the one whose process died, with its journal.  Answer PlaneStarted, PlaneFailed
    or PlaneDied.  To be done also while the store is away."""


@dataclass(frozen=True)
class Disconnect(Action):
    """Stop the plane, or what Adopt has begun.  Answer PlaneStopped."""


@dataclass(frozen=True)
class SetState(Action):
    """Write the backend's state in a transaction that checks that the area exists."""

    state: XenbusState

    def __str__(self) -> str:
        return self.state.label


@dataclass(frozen=True)
class TakeOffline(Action):
    """Write online=0, and with closing also state=Closing, in one transaction that checks that the area exists."""

    closing: bool


@dataclass(frozen=True)
class ReportError(Action):
    """Write error, hotplug-error and hotplug-status=error if the area exists, and to the log."""

    message: str


@dataclass(frozen=True)
class ClearError(Action):
    """Remove error and hotplug-error, and write hotplug-status=connected."""


@dataclass(frozen=True)
class RemoveAreas(Action):
    """Remove what is ours: both areas if we created them, the backend's in a driver domain, else nothing."""


@dataclass(frozen=True)
class Destroy(Action):
    """Cancel the watches, close the target, forget the device.  Nothing comes after it."""

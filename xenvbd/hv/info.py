"""What the simulated machine tells of its tables.  Not in sim.pyx: Cython 0.29 cannot derive from NamedTuple."""
from typing import NamedTuple


class PortInfo(NamedTuple):
    """A port that is in use.  remote_domid of an unbound one: whom it waits for."""
    port: int
    state: str                  # "unbound" or "interdomain"
    remote_domid: int
    remote_port: int
    pending: bool
    masked: bool


class GrantInfo(NamedTuple):
    """An entry of a grant table that is in use; not permitted: revoked."""
    gref: int
    permitted: bool
    readonly: bool
    remote_domid: int
    frame: int

"""The simulated machine's XenStore: xenstored's protocol and rules over UNIX sockets, one a domain."""
from . import domain
from .server import SimStore

__all__ = ["SimStore", "domain"]

"""The simulated machine's XenStore: xenstored's protocol and rules over UNIX sockets, one a domain."""
from xenvbd.store_sim import domain
from xenvbd.store_sim.server import SimStore

__all__ = ["SimStore", "domain"]

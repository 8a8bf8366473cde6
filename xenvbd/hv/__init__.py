"""The hypervisor seam: open() is the one place where a machine is chosen; nothing else asks which it is."""
from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from xenvbd.errors import HypervisorError

if TYPE_CHECKING:
    from xenvbd.hv.ops import Hypervisor


def open(spec: str, domid: int | None = None) -> Hypervisor:
    """The machine named by spec as domain domid (None: 0) sees it.

    spec is "xen", this host's Xen, or "sim:DIR", a simulated machine.  Raises HypervisorError (NoHypervisor:
    this host runs no Xen)."""
    if spec == "xen":
        from xenvbd.hv import host
        return host.open(domid or 0)
    kind, colon, directory = spec.partition(":")
    if kind != "sim" or not colon or not directory:
        raise HypervisorError(errno.EINVAL, f'"{spec}" is no machine: "xen", or "sim:" and a directory')
    from xenvbd.hv import sim
    return sim.join(directory, domid or 0)

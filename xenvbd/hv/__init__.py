"""The hypervisor seam: open() is the one place where a machine is chosen; nothing else asks which it is."""
from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from xenvbd.errors import HypervisorError

if TYPE_CHECKING:
    from xenvbd.hv.ops import Hypervisor


EXPECTED = '"xen", or "sim:" and a directory'


def is_machine(spec: str) -> bool:
    """Whether spec names a machine, there or not."""
    return spec == "xen" or (spec.startswith("sim:") and spec != "sim:")


def open(spec: str, domid: int | None = None) -> Hypervisor:
    """The machine named by spec as domain domid (None: 0) sees it.

    spec is "xen", this host's Xen, or "sim:DIR", a simulated machine.  Raises HypervisorError (NoHypervisor:
    this host runs no Xen)."""
    if not is_machine(spec):
        raise HypervisorError(errno.EINVAL, f'"{spec}" is no machine: {EXPECTED}')
    if spec == "xen":
        from xenvbd.hv import host
        return host.open(domid or 0)
    from xenvbd.hv import sim
    return sim.join(spec.removeprefix("sim:"), domid or 0)


def places(spec: str) -> list[tuple[str, str]]:
    """Paths that a process which joined the machine goes on opening, for a sandbox: "rw", or "rwm" if it makes and
    removes files there."""
    if spec == "xen":
        from xenvbd.hv import host
        return [(path, "rw") for path in host.OPENED_BY_WORKERS]
    return [(spec.partition(":")[2], "rwm")]

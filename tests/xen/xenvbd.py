"""xenvbd in the emulated dom0, used as an admin does: the command, the service, image files."""
from __future__ import annotations

import json
from typing import Any

from tests.xen.guest import Guest
from tests.xen.line import PATIENCE, wait
from tests.xen.machine import Machine

BACKEND = "/local/domain/0/backend"
# As long as the harness waits for it.
TIMEOUT = f"--timeout {60 * PATIENCE:g}"


class Xenvbd:
    """dom0's xenvbd."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.dom0 = machine.dom0
        self.left: dict[str, object] = {}

    def service(self, verb: str, check: bool = True) -> str:
        """`service xenvbd VERB`: the init script."""
        return self.dom0(f"/etc/init.d/xenvbd {verb}", 120, check)

    def status(self) -> int:
        """The exit status of the init script's status: 0 running, 3 not."""
        return int(self.dom0("/etc/init.d/xenvbd status >/dev/null; echo $?").split()[-1])

    def image(self, name: str, size: str = "64M") -> str:
        """A new sparse image file; its path."""
        path = f"/srv/{name}.img"
        self.dom0(f"truncate -s {size} {path}")
        return path

    def attach(self, guest: Guest, target: str, vdev: str, options: str = "") -> str:
        """`xenvbd attach`, until the guest has made its disk: what it printed."""
        output = self.dom0(f"xenvbd {TIMEOUT} attach {options} {guest.name} {target} {vdev}", 90)
        if "--no-wait" not in options:
            guest.wait_for(f"[ -b /dev/{vdev} ]")
        return output

    def detach(self, guest: Guest, vdev: str, options: str = "") -> str:
        """`xenvbd detach`: what it printed."""
        return self.dom0(f"xenvbd {TIMEOUT} detach {options} {guest.name}:{vdev}", 90)

    def disks(self) -> list[dict[str, Any]]:
        """`xenvbd --json list`."""
        return list(json.loads(self.dom0("xenvbd --json list")))

    def show(self, guest: Guest, vdev: str) -> dict[str, Any]:
        """`xenvbd --json show` of a disk."""
        return dict(json.loads(self.dom0(f"xenvbd --json show {guest.name}:{vdev}")))

    def workers(self) -> list[int]:
        """The worker processes that have a domain; not the spare."""
        return [int(pid) for pid in self.dom0("pgrep -f '^xenvbd-worker [0-9]'", check=False).split()]

    def checksum(self, path: str) -> str:
        """Of an image, read behind the backend's back."""
        return self.dom0(f"sha256sum {path}", 120).split()[0]

    def nodes(self, domid: int) -> str:
        """Every xenstore node of a domain's disks: both areas and the toolstack's own."""
        areas = f"{BACKEND}/(qdisk|vbd3?)/{domid}|/local/domain/{domid}/device/vbd|/libxl/{domid}/device/vbd"
        return self.dom0(f"xenstore-ls -f | grep -E '^({areas})/.'", check=False)

    def nothing_left(self, domid: int, *images: str, seconds: float = 30) -> None:
        """Wait until a domain's disks are gone: no node, no worker, no file, no lock on the images.  It was the last
        domain with a disk."""
        def nothing() -> bool:
            self.left = {"nodes": self.nodes(domid), "workers": self.workers(),
                         "files": self.dom0(f"ls /run/xenvbd | grep -- '-{domid}[-.]'", check=False),
                         "locks": [path for path in images if self.locked(path)]}
            return not any(self.left.values())
        try:
            wait("nothing left", nothing, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}: there is still {self.left}") from None
        assert self.disks() == []

    def locked(self, image: str) -> bool:
        """Whether anybody holds a lock on an image."""
        return bool(self.dom0(f"grep :$(stat -c %i {image}) /proc/locks", check=False))

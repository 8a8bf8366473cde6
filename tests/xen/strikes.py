"""What serves guests' disks is killed or replaced, and what comes of it; a load that goes on meanwhile."""
from __future__ import annotations

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import TIMEOUT, Xenvbd

COMPLAINTS = "I/O error|Buffer I/O|disabled for further use|EXT4-fs error|Remounting|blocked for more"


def served(xenvbd: Xenvbd) -> dict[str, int]:
    """The disks that are connected, each with the process that serves it."""
    return {disk["name"]: disk["pid"] for disk in xenvbd.disks()
            if disk["plane"] == "running" and set(disk["state"].values()) == {"Connected"}}


def strike(xenvbd: Xenvbd, whom: str, *vdevs: str, delay: float = 0.0) -> None:
    """Kill, or replace, what serves the guest; wait until another serves its disks.  delay: of the daemon's death."""
    workers = xenvbd.workers()
    assert workers
    worker = " ".join(map(str, workers))
    if whom == "restart":
        xenvbd.dom0(f"xenvbd {TIMEOUT} restart --worker pv:{vdevs[0]}", 90)
    elif whom == "both":
        xenvbd.dom0(f"kill -9 {worker}; sleep {delay}; kill -9 $(cat /run/xenvbd/manager.lock); sleep 0.2", check=False)
        xenvbd.service("start")
    else:
        xenvbd.dom0(f"kill -9 {worker}")
    wait("disks that were taken over", lambda: (now := served(xenvbd)).keys() >= set(vdevs)
         and not set(now.values()) & set(workers), 60)


def verify_until(guest: Guest, device: str, stop: str) -> None:
    """Let it write to a disk and verify, again and again, until there is another disk: see finished()."""
    guest.shell.start(f"until [ -b {stop} ]; do {workload.fio(device, '16M', 32)}; done")


def load(xenvbd: Xenvbd, guest: Guest) -> None:
    """Wait until it does."""
    wait("load", lambda: xenvbd.show(guest, "xvdb")["stats"]["write"]["ops"] > 0, 60)


def finished(xenvbd: Xenvbd, guest: Guest, stop: str) -> list[str]:
    """Give the guest the disk that ends its loops; what they printed, every round of fio without an error."""
    xenvbd.attach(guest, xenvbd.image("stop", "1M"), stop, "--no-wait")
    lines = guest.shell.finish(600).splitlines()
    rounds = [line for line in lines if ";" in line]
    assert rounds and all(line.split(";")[0] == "0" for line in rounds), lines
    assert guest.run(f"dmesg | grep -E '{COMPLAINTS}' || true") == ""
    return lines


def compare(xenvbd: Xenvbd, guest: Guest, **images: str) -> None:
    """The images hold what the guest's disks do."""
    for vdev, image in images.items():
        assert guest.run(f"sync; sha256sum /dev/{vdev}", 120).split()[0] == xenvbd.checksum(image)

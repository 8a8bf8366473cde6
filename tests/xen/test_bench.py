"""xenvbd beside the kernel's xen-blkback and QEMU's qdisk: one boot, one guest, the same fio jobs, as ratios.

QEMU counts instructions (-icount), so a second in the guest is 10^9 instructions of the whole machine (guest,
hypervisor and dom0) and not what a busy host made of it.  The table is printed and left in build/xen/bench.md."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.xen.conftest import LOGS
from tests.xen.guest import Guest
from tests.xen.lab import install
from tests.xen.machine import Machine

# Name, fio's words, how much is read or written.
JOBS = (("4k random read", "--rw=randread --bs=4k", "6m"), ("4k random write", "--rw=randwrite --bs=4k", "6m"),
        ("128k read", "--rw=read --bs=128k", "32m"), ("128k write", "--rw=write --bs=128k", "32m"))
BACKENDS = (("xenvbd", "/dev/xvdb"), ("xen-blkback", "/dev/xvdc"), ("QEMU qdisk", "/dev/xvdd"))
FIO = ("/bin/fio --name=b --filename={device} {words} --io_size={size} --size=48m --iodepth=16 --ioengine=libaio "
       "--direct=1 --randseed=7 --norandommap --output-format=json >/tmp/out; "
       "grep -E '\"(iops|error)\"' /tmp/out | tr -d ' \\n'")
PATIENCE = 1800


def iops(guest: Guest, device: str, words: str, size: str) -> float:
    """Requests in a second of the guest's clock."""
    text = guest.run(FIO.format(device=device, words=words, size=size), PATIENCE)
    found = json.loads("[" + ",".join(f"{{{part}}}" for part in text.strip(",").split(",")) + "]")
    assert all(item.get("error", 0) == 0 for item in found), text
    return max(float(item["iops"]) for item in found if "iops" in item)


def prepare(machine: Machine, package: Path) -> Guest:
    """A guest with one disk of each backend, every image in memory."""
    install(machine, package, "vbd3", patience=PATIENCE)
    machine.dom0("mount -t tmpfs -o size=400m tmpfs /srv; "
                 "for n in b c d; do dd if=/dev/zero of=/srv/$n.img bs=1M count=48 2>/dev/null; done; "
                 "modprobe xen-blkback; losetup /dev/loop0 /srv/c.img", PATIENCE)
    guest = machine.guest("bench", 1, fio=True, timeout=PATIENCE, disks=(
        "vdev=xvdc,format=raw,backendtype=phy,target=/dev/loop0",
        "vdev=xvdd,format=raw,backendtype=qdisk,target=/srv/d.img"))
    machine.dom0("xenvbd --timeout 300 attach bench /srv/b.img xvdb", PATIENCE)
    return guest


@pytest.mark.bench
def test_bench_beside_blkback_and_qemu(images: Path, package: Path, say: Callable[[str], None]) -> None:
    rows = []
    with Machine(images, LOGS / "bench", icount=True) as machine:
        say("dom0 is up")
        guest = prepare(machine, package)
        version = machine.dom0("dpkg-query -W -f '${Version}' python3-xenvbd", PATIENCE)
        for name, words, size in JOBS:
            found = []
            for backend, device in BACKENDS:
                found.append(iops(guest, device, words, size))
                say(f"{name}, {backend}: {found[-1]:.0f} requests in 10^9 instructions")
            rows.append(f"| {name} | " + " | ".join(f"{value:.0f}" for value in found)
                        + f" | {found[0] / found[1]:.2f} | {found[0] / found[2]:.2f} |")
    head = ["| fio job | " + " | ".join(name for name, _ in BACKENDS) + " | to xen-blkback | to QEMU |",
            "|---|---|---|---|---|---|"]
    (LOGS / "bench.md").write_text(f"xenvbd {version}, `make bench-xen`\n\n" + "\n".join(head + rows) + "\n")
    say("\n" + "\n".join(head + rows))

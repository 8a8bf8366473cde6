"""xenvbd beside the kernel's xen-blkback and QEMU's qdisk: one boot, one guest, the same fio jobs, as ratios.

QEMU counts instructions (-icount), so a second in the guest is 10^9 instructions of the whole machine (guest,
hypervisor and dom0) and not what a busy host made of it.  The tables are printed and left in build/xen/bench-*.md:
the figures, and what a request cost xenvbd in events, passes, system calls and grant copies.

Each job runs once before it counts.  It is all done twice: on the processor as QEMU has it, where Linux copies with
`rep movsb`, each byte of which QEMU counts as an instruction; and on one without ERMS, where it copies by eight
bytes."""
from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.xen.conftest import LOGS
from tests.xen.guest import Guest
from tests.xen.lab import Lab, kept
from tests.xen.machine import Machine
from xenvbd.stats import Snapshot

# Name, fio's words, how much is read or written.
JOBS = (("4k random read", "--rw=randread --bs=4k", "16m"), ("4k random write", "--rw=randwrite --bs=4k", "16m"),
        ("128k read", "--rw=read --bs=128k", "128m"), ("128k write", "--rw=write --bs=128k", "128m"))
OURS = {"xenvbd, copy": "xvdb", "xenvbd, persistent": "xvde"}
OTHERS = {"xen-blkback": "xvdc", "QEMU qdisk": "xvdd"}
RATIOS = [(ours, theirs) for ours in OURS for theirs in OTHERS]
NUMBERS = {"xvdb": 51728, "xvde": 51776}
FIO = ("/bin/fio --name=b --filename=/dev/{device} {words} --io_size={size} --size=48m --iodepth=16 --ioengine=libaio "
       "--direct=1 --randseed=7 --norandommap --output-format=json >/tmp/out; "
       "grep -E '\"(iops|error)\"' /tmp/out | tr -d ' \\n'")
SHOWN = ("events_in", "events_out", "passes", "wakeups", "submits", "grant_copies", "grant_segments")
PROCESSORS = {"with-erms": (), "without-erms": ("erms", "fsrm")}
PATIENCE = 1800


def iops(guest: Guest, device: str, words: str, size: str) -> float:
    """Requests in a second of the guest's clock."""
    text = guest.run(FIO.format(device=device, words=words, size=size), PATIENCE)
    found = json.loads("[" + ",".join(f"{{{part}}}" for part in text.strip(",").split(",")) + "]")
    assert all(item.get("error", 0) == 0 for item in found), text
    return max(float(item["iops"]) for item in found if "iops" in item)


def counters(machine: Machine, device: str) -> Snapshot:
    """Of one of our disks, as its worker has them now: its file is read, which disturbs least."""
    text = machine.dom0(f"base64 -w0 /run/xenvbd/*-{NUMBERS[device]}.q0.stats", PATIENCE)
    return Snapshot.from_bytes(base64.b64decode(text))


def per_request(spent: Snapshot) -> list[str]:
    """What SHOWN names, divided by the requests."""
    requests = sum(op.ops for op in spent.ops.values())
    return [f"{spent.counters[name] / requests:.3f}" for name in SHOWN]


def installed(images: Path, package: Path, say: Callable[[str], None]) -> Path:
    """A disk of dom0 with the package, made without counting: that would take long."""
    where, disk = LOGS / "bench-disk", LOGS / "bench-disk.qcow2"
    with Machine(images, where, earlier=kept(images, package)) as machine:
        Lab(machine, package, say).at("installed", where)
        machine.dom0("""sed -i 's/^kinds = .*/kinds = ["vbd3"]/' /etc/xenvbd/xenvbd.toml; sync""")
        machine.keep(disk)
    return disk


def prepare(machine: Machine) -> Guest:
    """A guest with one disk of each backend, every image in memory."""
    machine.dom0("/etc/init.d/xenvbd start; mount -t tmpfs -o size=400m tmpfs /srv; "
                 "for n in b c d e; do dd if=/dev/zero of=/srv/xvd$n.img bs=1M count=48 2>/dev/null; done; "
                 "modprobe xen-blkback; losetup /dev/loop0 /srv/xvdc.img", PATIENCE)
    guest = machine.guest("bench", 1, fio=True, timeout=PATIENCE, disks=(
        "vdev=xvdc,format=raw,backendtype=phy,target=/dev/loop0",
        "vdev=xvdd,format=raw,backendtype=qdisk,target=/srv/xvdd.img"))
    machine.dom0("xenvbd --timeout 600 attach bench /srv/xvdb.img xvdb && "
                 "xenvbd --timeout 600 attach --persistent bench /srv/xvde.img xvde", PATIENCE)
    guest.run("until [ -b /dev/xvdb ] && [ -b /dev/xvde ]; do sleep 0.1; done", PATIENCE)
    return guest


def table(head: list[str], rows: list[list[str]]) -> str:
    """Of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def compare(machine: Machine, guest: Guest, say: Callable[[str], None]) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of both tables."""
    figures, costs = [], []
    for name, words, size in JOBS:
        found = {}
        for backend, device in (OURS | OTHERS).items():
            iops(guest, device, words, size)
            before = counters(machine, device) if backend in OURS else None
            found[backend] = iops(guest, device, words, size)
            say(f"{name}, {backend}: {found[backend]:.0f} requests in 10^9 instructions")
            if before:
                costs.append([name, backend, *per_request(counters(machine, device) - before)])
        figures.append([name, *(f"{value:.0f}" for value in found.values()),
                        *(f"{found[ours] / found[theirs]:.2f}" for ours, theirs in RATIOS)])
    return figures, costs


@pytest.mark.bench
@pytest.mark.parametrize("processor", PROCESSORS)
def test_bench_beside_blkback_and_qemu(processor: str, images: Path, package: Path, say: Callable[[str], None]) -> None:
    disk = installed(images, package, say)
    with Machine(images, LOGS / "bench", icount=True, earlier=disk, without=PROCESSORS[processor]) as machine:
        say(f"dom0 is up, {processor}")
        guest = prepare(machine)
        say("the guest has its disks")
        version = machine.dom0("dpkg-query -W -f '${Version}' python3-xenvbd", PATIENCE)
        figures, costs = compare(machine, guest, say)
    ratios = [f"{ours.split()[-1]} / {theirs}" for ours, theirs in RATIOS]
    text = (f"xenvbd {version}, `make bench-xen`, {processor}, requests in 10^9 instructions of the whole machine\n\n"
            + table(["fio job", *OURS, *OTHERS, *ratios], figures)
            + "\nA request:\n\n" + table(["fio job", "", *(name.replace("_", " ") for name in SHOWN)], costs))
    (LOGS / f"bench-{processor}.md").write_text(text)
    say("\n" + text)

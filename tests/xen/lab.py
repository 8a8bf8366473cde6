"""The machine that all scenarios share: booted once, kept at several levels, brought back to one for each scenario.

    ready       dom0 with Xen's services
    installed   the package under test is installed there as a user would, and its daemon runs
    pv, pvh     and a guest of that name runs, with fio, without a disk

A level is made when a scenario first asks for it, and kept for later sessions with the same package.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.xen.guest import Guest
from tests.xen.machine import READY, Machine, host

# What each task of a worker waits for in dom0's kernel, and what its io_urings have there.
TASKS = """for worker in $(pgrep -f ^xenvbd-worker); do
    for task in /proc/$worker/task/*; do echo "== $task"; cat $task/comm $task/wchan $task/syscall $task/stack; done
    for ring in $(ls -l /proc/$worker/fd | sed -n 's/.* \\([0-9]*\\) -> anon_inode:.io_uring.$/\\1/p'); do
        echo "== ring $ring"; cat /proc/$worker/fdinfo/$ring; done
done"""
# Which Debian, and so which Xen: see build-images.
SUITE = os.environ.get("XENVBD_SUITE", "")


def cache_directory() -> Path:
    """Where the images are kept: they outlive `make clean`."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("XENVBD_XEN_CACHE") or f"{home}/xenvbd-xen" + (SUITE and f"-{SUITE}"))


def newest_package(top: Path) -> Path:
    """The Debian package under test: $XENVBD_DEB, or what `make deb` left in dist, or dist/$XENVBD_SUITE."""
    given, dist = os.environ.get("XENVBD_DEB"), top / "dist" / SUITE
    found = [Path(given)] if given else sorted(dist.glob("python3-xenvbd_*.deb"), key=os.path.getmtime)
    assert found, f"no Debian package in {dist}: run make deb" + (SUITE and f" XENVBD_SUITE={SUITE}")
    return found[-1]


def kept(images: Path, package: Path) -> Path:
    """Where the levels of a session are kept: for this package, these images and this harness."""
    here = Path(__file__).parent
    parts = (package, images / "key", *(here / name for name in ("lab.py", "guest.py", "machine.py")))
    read = [host().encode(), *(part.read_bytes() for part in parts)]
    key = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in read)).hexdigest()[:12]
    return images / f"lab-{key}.qcow2"


def install(machine: Machine, package: Path, kind: str, patience: float = 240) -> None:
    """The README's dom0 section: the package, its dependencies being there; the kind to claim; the service."""
    machine.put(package, f"/tmp/{package.name}")
    machine.dom0(f"cd /tmp && apt-get install -y ./{package.name}", patience)
    machine.dom0(f"sed -i 's/^#kinds = .*/kinds = [\"{kind}\"]/' /etc/xenvbd/xenvbd.toml", patience)
    machine.dom0("/etc/init.d/xenvbd start", patience)


class Lab:
    """A Machine and its levels.  say: where progress is told."""

    def __init__(self, machine: Machine, package: Path, say: Callable[[str], None]):
        self.machine, self.package, self.say = machine, package, say
        self._made = machine.snapshots()
        self._failed: dict[str, BaseException] = {}
        self._steps = {"installed": self._install, "pv": lambda: self._guest("pv"), "pvh": lambda: self._guest("pvh")}

    def at(self, level: str, logs: Path) -> None:
        """Bring the machine to a level, its consoles in a directory of their own."""
        if level not in self._made:
            below = READY if level == "installed" else "installed"
            if level in self._failed:
                raise AssertionError(f"level {level!r} could not be made") from self._failed[level]
            self.at(below, logs.parent / f"level-{level}")
            start = time.monotonic()
            self._make(level)
            self.machine.save(level)
            self._made.add(level)
            self.say(f"level {level!r} made in {time.monotonic() - start:.0f} s")
        self.machine.log_to(logs)
        self.machine.load(level)

    def keep(self) -> None:
        """Let a later session with the same package start from the levels of this one."""
        for old in self.machine.images.glob("lab-*.qcow2"):
            old.unlink()
        self.machine.keep(kept(self.machine.images, self.package))

    def _make(self, level: str) -> None:
        """Make a level, once: what failed is not tried again for the next scenario."""
        try:
            self._steps[level]()
        except (AssertionError, TimeoutError) as error:
            self._failed[level] = error
            raise

    def _install(self) -> None:
        install(self.machine, self.package, "qdisk")

    def _guest(self, kind: str) -> None:
        guest = self.machine.guest(kind, 1, kind=kind, fio=True, timeout=400)
        guest.run("echo 1 >/proc/sys/kernel/sysrq")         # for collect()

    def known(self, name: str) -> Guest:
        """The guest of a level."""
        guest = self.machine.known_guest(name, 1)
        guest.shell.sync(60)
        return guest

    def collect(self, logs: Path) -> None:
        """What a post mortem wants, from a machine that may be dead."""
        with contextlib.suppress(OSError, TimeoutError):
            (logs / "registers.txt").write_text(self.machine.registers())
            if not self.machine.shell.busy:
                self._ask_dom0(logs)

    def _ask_dom0(self, logs: Path) -> None:
        # Each guest's kernel says on its console what its tasks wait for.
        self.machine.dom0("for domain in $(xl list | awk '$2 > 0 { print $2 }'); do for key in 8 w t; do "
                          "xl sysrq $domain $key; sleep 1; done; done; for key in e d; do xl debug-keys $key; done", 60,
                          check=False)
        for name, command in (("xenstore", "xenstore-ls -fp"), ("xl", "xl list; xl vcpu-list; xl dmesg; dmesg"),
                              ("processes", "ps axfww"), ("tasks", TASKS),
                              ("xenvbd", "xenvbd list; xenvbd --json list; cat /var/log/xenvbd/*"),
                              ("xl-logs", "tail -n 100 /var/log/xen/*")):
            (logs / f"{name}.txt").write_text(self.machine.dom0(command, 60, check=False) + "\n")

"""`doctor`: what this host is and has, as far as a backend is concerned, each finding with what to do about it.

Only what can be told from here is told; advisories.py says what versions tell of fixes, and what they do not.
"""
from __future__ import annotations

import contextlib
import datetime
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xenvbd import advisories, errors, rivals, sandbox
from xenvbd.config import Config
from xenvbd.control import Client
from xenvbd.disk.rings import unavailable
from xenvbd.errors import Error, StoreError
from xenvbd.store import Store

LEVELS = ("ok", "note", "warn", "fail")
DEVICES = {"gntdev": "xen-gntdev", "evtchn": "xen-evtchn"}          # /dev/xen/NAME: the module that makes it
STORES = ("/run/xenstored/socket", "/var/run/xenstored/socket", "/dev/xen/xenbus")
RING_GRANTS = 16 * 16           # of the largest disk: queues times pages of a ring
OPEN_FILES = 65536
TAP_SINCE = (4, 19)             # backendtype=tap makes vbd3 from this Xen on
# Until when xenproject.org fixes holes in a release: Security-Support-Until in SUPPORT.md of each stable branch; since
# the announcement of 16 February 2026 five years from the release, for 4.17 and later.
SUPPORTED = {(4, 16): "2024-12-02", (4, 17): "2027-12-12", (4, 18): "2028-11-16", (4, 19): "2029-07-29",
             (4, 20): "2030-03-05", (4, 21): "2030-11-19", (4, 22): "2031-07-30"}
ADVISORIES = "https://xenbits.xen.org/xsa/"


@dataclass(frozen=True)
class Finding:
    """level: one of LEVELS; check: what was looked at, in a word; status: the exit status if this is a failure."""

    level: str
    check: str
    found: str
    fix: str = ""
    status: int = errors.FAILED


class Doctor:
    """One examination.  root: of /proc, /sys and /dev; sandboxed tests put another there."""

    def __init__(self, config: Config, *, root: str = "/", today: datetime.date | None = None,
                 xl_info: Callable[[], str] | None = None,
                 package: Callable[[str], str | None] | None = None) -> None:
        """xl_info: what `xl info` says; package: the version of an installed Debian package, None if it is not."""
        self.config, self.root = config, Path(root)
        self._today = today or datetime.date.today()
        self._xl_info = xl_info or _xl_info
        self._package = package or _package

    def findings(self) -> list[Finding]:
        """Everything, what matters most first; without Xen only what the simulated machine needs."""
        parts = [self._xen] if self.version is None else [
            self._xen, self._advisories, self._devices, self._workers, self._limits, self._store, self._kinds,
            self._daemon, self._targets]
        return [finding for part in [*parts, self._io_uring, self._landlock, self._huge_pages, self._files]
                for finding in part()]

    @property
    def version(self) -> tuple[int, int] | None:
        """The running Xen's; None without one."""
        if self._text("sys/hypervisor/type") != "xen":
            return None
        major, minor = (self._text(f"sys/hypervisor/version/{name}") or "0" for name in ("major", "minor"))
        return int(major), int(minor)

    @property
    def is_dom0(self) -> bool:
        return "control_d" in (self._text("proc/xen/capabilities") or "")

    # The hypervisor

    def _xen(self) -> Iterator[Finding]:
        version = self.version
        if version is None:
            yield Finding("fail", "xen", "no Xen on this host; xenvbd sim and xenvbd bench work, serve does not",
                          "boot the Xen hypervisor (Debian: apt install xen-system-amd64, and reboot)", errors.NO_XEN)
            return
        where = "dom0" if self.is_dom0 else "a guest; as a driver domain it needs driver_domain=1 in its xl.cfg"
        extra = self._text("sys/hypervisor/version/extra") or ""
        yield Finding("ok", "xen", f"Xen {version[0]}.{version[1]}{extra}, this is {where}")

    def _advisories(self) -> Iterator[Finding]:
        version = self.version or (0, 0)
        name = f"{version[0]}.{version[1]}"
        until = SUPPORTED.get(version, "" if version > max(SUPPORTED) else "2024-01-01")
        if until and self._today > datetime.date.fromisoformat(until):
            yield Finding("warn", "security", f"Xen {name} gets no more fixes from xenproject.org",
                          f"keep it up to date, or move to a newer Xen; {ADVISORIES}")
        verdict = advisories.xen(version, self._text("sys/hypervisor/version/extra") or "",
                                 self._package(f"xen-hypervisor-{name}-amd64"), _is_newer)
        yield Finding(verdict.level, "security", verdict.found, verdict.fix and f"{verdict.fix}; {ADVISORIES}")
        linux = advisories.linux(self._text("proc/version") or "", _is_newer)
        if linux is not None:
            yield Finding(linux.level, "security", linux.found, linux.fix)
        line = next((line for line in self._xl_info().splitlines() if line.startswith("xen_commandline")), None)
        if line is not None and "max-ver:1" not in line:
            yield Finding("note", "security", "guests may use version 2 of grant tables (XSA-486, XSA-501, XSA-517)",
                          "gnttab=max-ver:1 on Xen's command line, unless a guest needs version 2")

    def _devices(self) -> Iterator[Finding]:
        for name, module in DEVICES.items():
            path = self.root / "dev/xen" / name
            if path.exists() and not os.access(path, os.R_OK | os.W_OK):
                yield Finding("fail", "devices", f"/dev/xen/{name} may not be opened by user {os.geteuid()}",
                              "run xenvbd as root")
            elif path.exists():
                yield Finding("ok", "devices", f"/dev/xen/{name}")
            else:
                yield Finding("fail", "devices", f"/dev/xen/{name} is missing", f"modprobe {module}", errors.NO_XEN)

    def _workers(self) -> Iterator[Finding]:
        node = self.root / "dev/xen/gntdev"
        if os.geteuid() == 0 and node.exists():
            entry, words = sandbox.user_of([(str(node), "rw")])
            if entry is None:
                yield Finding("note", "workers", f"workers run as {words}, without capabilities",
                              f"a system user {sandbox.USER} whose group may read and write /dev/xen/gntdev "
                              "(the Debian package sees to both)")
            else:
                yield Finding("ok", "workers", f"workers run as {words}")

    def _limits(self) -> Iterator[Finding]:
        limit = self._text("sys/module/xen_gntdev/parameters/limit")
        if limit is not None and int(limit) < RING_GRANTS:
            yield Finding("warn", "gntdev", f"gntdev maps at most {limit} pages at once; the largest disk needs "
                          f"{RING_GRANTS}", f"options xen-gntdev limit={16 * RING_GRANTS} in /etc/modprobe.d")
        elif limit is not None:
            yield Finding("ok", "gntdev", f"gntdev maps up to {limit} pages at once")

    # xenstored and the rivals

    def _store(self) -> Iterator[Finding]:
        path = next((path for path in STORES if (self.root / path.lstrip("/")).exists()), None)
        if path is None:
            yield Finding("fail", "xenstore", "neither xenstored's socket nor /dev/xen/xenbus is there",
                          "start xenstored (Debian: service xen start)")
            return
        try:
            with Store(str(self.root / path.lstrip("/")), timeout=3.0) as store:
                domid = store.domid
        except StoreError as exc:
            yield Finding("fail", "xenstore", f"xenstored does not answer at {path}: {exc.message}",
                          "start xenstored (Debian: service xen start)")
        else:
            yield Finding("ok", "xenstore", f"xenstored answers at {path}; this is domain {domid}")

    def _kinds(self) -> Iterator[Finding]:
        for kind in self.config.kinds:
            rival = rivals.find(kind, root=str(self.root))
            if rival is not None:
                yield Finding("fail", "rivals", f"backend/{kind} is to be claimed, but {rival.name} has it",
                              rival.advice, errors.REFUSED)
            else:
                yield Finding("ok", "rivals", f"backend/{kind} is claimed, and nobody else has it")
        for kind in sorted({"vbd", "vbd3", "qdisk"} - set(self.config.kinds)):
            if rival := rivals.find(kind, root=str(self.root)):
                yield Finding("note", "rivals", f"{rival.name} keeps backend/{kind}; xenvbd does not claim it")
        if "vbd3" in self.config.kinds and (self.version or TAP_SINCE) < TAP_SINCE and self.is_dom0:
            yield Finding("note", "rivals", "no xl of this Xen makes vbd3 disks; xenvbd attach works",
                          'for disks of xl.cfg: kinds = ["qdisk"] or ["vbd"]; see xenvbd(8), CLAIMING')

    def _daemon(self) -> Iterator[Finding]:
        try:
            said = Client(self.config.control, timeout=3.0).call("ping")
        except Error as exc:
            yield Finding("note", "daemon", f"the daemon does not answer: {exc}", "service xenvbd start")
        else:
            yield Finding("ok", "daemon",
                          f"xenvbd {said['version']}, process {said['pid']}, serves {said['disks']} disks")
            if tuple(said["kinds"]) != self.config.kinds:
                yield Finding("warn", "daemon", f"it claims {', '.join(said['kinds'])}, and the configuration says "
                              f"{', '.join(self.config.kinds)}", "service xenvbd reload")

    def _targets(self) -> Iterator[Finding]:
        missing = [path for path in self.config.allow if not (self.root / path.lstrip("/")).is_dir()]
        if len(missing) == len(self.config.allow):
            yield Finding("warn", "targets", f"no directory that targets may lie in exists: {', '.join(missing)}",
                          "`allow` under [targets] in the configuration")

    # Linux

    def _io_uring(self) -> Iterator[Finding]:
        setting = self._text("proc/sys/kernel/io_uring_disabled") or "0"
        if unavailable():
            yield Finding("warn", "io_uring", f"io_uring cannot be used (kernel.io_uring_disabled is {setting}); files "
                          "are served by threads, which is slower", "sysctl kernel.io_uring_disabled=0")
        else:
            yield Finding("ok", "io_uring", "io_uring can be used")

    def _landlock(self) -> Iterator[Finding]:
        modules = self._text("sys/kernel/security/lsm")
        if modules is not None and "landlock" not in modules.split(","):
            yield Finding("note", "landlock", "Linux runs without Landlock: a worker is confined by less",
                          f"lsm=landlock,{modules} on Linux's command line")
        elif modules is not None:
            yield Finding("ok", "landlock", "Landlock is there to confine workers")

    def _huge_pages(self) -> Iterator[Finding]:
        setting = self._text("sys/kernel/mm/transparent_hugepage/enabled")
        if setting is not None and "[never]" in setting:
            yield Finding("note", "huge-pages", "buffers cannot be huge pages: a little slower",
                          "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")

    def _files(self) -> Iterator[Finding]:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= hard < OPEN_FILES:
            yield Finding("note", "files", f"a process may have {hard} open files here; many disks need more",
                          f"ulimit -Hn {OPEN_FILES} (the package's service has it)")

    def _text(self, path: str) -> str | None:
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None


def status(findings: list[Finding]) -> int:
    """The exit status: that of the first failure, 0 without one."""
    return next((finding.status for finding in findings if finding.level == "fail"), errors.DONE)


def _xl_info() -> str:
    """What `xl info` says; nothing where there is no xl."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["xl", "info"], capture_output=True, text=True, timeout=5, check=True).stdout
    return ""


def _package(name: str) -> str | None:
    """The version of a Debian package that is installed; None if it is not, or this is no Debian."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["dpkg-query", "-W", "-f=${db:Status-Status} ${Version}", name]
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.split()
        return said[1] if said[:1] == ["installed"] and len(said) > 1 else None
    return None


def _is_newer(version: str, than: str) -> bool:
    """Whether a Debian package's version is that other one, or later.  Without dpkg: no."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["dpkg", "--compare-versions", version, "ge", than]
        return subprocess.run(command, timeout=5, check=False).returncode == 0
    return False

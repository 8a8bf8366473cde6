"""What doctor says of hosts of several kinds: /proc, /sys and /dev are directories of the test's own."""
import datetime
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from xenvbd import doctor, errors, rivals
from xenvbd.config import Config
from xenvbd.doctor import Doctor, Finding
from xenvbd.store_sim import SimStore

TODAY = datetime.date(2026, 11, 22)


class Host:
    """A host as its files show it: a good dom0 of Xen 4.20 unless a test changes them."""

    def __init__(self, root: Path, store: str) -> None:
        self.root, self.config = root, replace(Config(), runtime_dir=str(root / "run/xenvbd"), allow=("/dev",))
        for name, text in {
                "sys/hypervisor/type": "xen", "sys/hypervisor/version/major": "4", "sys/hypervisor/version/minor": "20",
                "sys/hypervisor/version/extra": ".4", "proc/xen/capabilities": "control_d", "dev/xen/gntdev": "",
                "dev/xen/evtchn": "", "sys/module/xen_gntdev/parameters/limit": "65536",
                "proc/version": "Linux version 6.12.9 (root@b) #1 SMP",
                "sys/kernel/security/lsm": "capability,landlock,yama",
                "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never"}.items():
            self.write(name, text)
        (root / "run/xenstored").mkdir(parents=True)
        (root / "run/xenstored/socket").symlink_to(store)
        self.xl = "xen_commandline        : gnttab=max-ver:1"
        self.package: str | None = None

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(self, *words: str) -> None:
        self.write("proc/812/cmdline", "\0".join(words) + "\0")

    def findings(self) -> list[Finding]:
        return Doctor(self.config, root=str(self.root), today=TODAY, xl_info=lambda: self.xl,
                      package=lambda name: self.package).findings()

    def bad(self) -> list[str]:
        """What is a warning or a failure."""
        return [finding.found for finding in self.findings() if finding.level in ("warn", "fail")]

    def status(self) -> int:
        return doctor.status(self.findings())


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, SimStore(directory, (0,)) as sim:
        yield Host(tmp_path, sim.path(0))


def test_a_good_host_has_nothing_bad(host: Host) -> None:
    assert host.bad() == [] and host.status() == 0
    assert host.findings()[0].found == "Xen 4.20.4, this is dom0"


def test_every_finding_that_is_not_ok_has_a_fix_or_says_what_is_kept(host: Host) -> None:
    host.process("xl", "devd")
    for finding in host.findings():
        assert finding.level in doctor.LEVELS and (finding.level == "ok" or finding.fix or "keeps" in finding.found)


def test_without_xen_it_says_what_works_all_the_same(host: Host) -> None:
    (host.root / "sys/hypervisor/type").unlink()
    assert host.status() == errors.NO_XEN
    assert "xenvbd sim and xenvbd bench work" in host.bad()[0] and len(host.bad()) == 1


Change = Callable[[Host], object]


@pytest.mark.parametrize("change, words, status", [
    (lambda host: (host.root / "dev/xen/gntdev").unlink(), "/dev/xen/gntdev is missing", errors.NO_XEN),
    (lambda host: (host.root / "run/xenstored/socket").unlink(), "neither xenstored's socket", errors.FAILED),
    (lambda host: host.write("sys/module/xen_gntdev/parameters/limit", "64"), "at most 64 pages", errors.DONE),
    (lambda host: host.process("/usr/sbin/tapback"), r"tapback \(process 812\) has it", errors.REFUSED),
    (lambda host: host.write("sys/hypervisor/version/minor", "16"), "4.16 gets no more fixes", errors.DONE),
    (lambda host: host.write("sys/hypervisor/version/extra", ".3"), "Xen 4.20.3 has no fixes of XSA-484", errors.DONE),
    (lambda host: host.write("proc/version", "Linux version 5.10.0-1-amd64"), "Linux 5.10 is older", errors.DONE),
    (lambda host: setattr(host, "config", replace(host.config, allow=("/srv/none",))), "/srv/none", errors.DONE),
], ids=["device", "store", "gntdev", "rival", "old", "point", "linux", "targets"])
def test_what_is_wrong_is_found(host: Host, change: Change, words: str, status: int) -> None:
    change(host)
    assert any(re.search(words, found) for found in host.bad()), host.findings()
    assert host.status() == status


@pytest.mark.parametrize("change, words", [
    (lambda host: host.write("sys/kernel/security/lsm", "capability,yama"), "without Landlock"),
    (lambda host: host.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]"), "huge pages"),
    (lambda host: (host.root / rivals.KERNEL_BACKEND).mkdir(parents=True), "xen-blkback keeps backend/vbd;"),
    (lambda host: host.write("sys/hypervisor/version/minor", "17"), "no xl of this Xen makes vbd3"),
    (lambda host: setattr(host, "xl", "xen_commandline  : dom0_mem=4G"), "version 2 of grant tables"),
    (lambda host: None, "those of XSA-517 and XSA-523 (November 2026) are in no release"),
    (lambda host: None, "the daemon does not answer"),
], ids=["landlock", "huge", "blkback", "vbd3", "grants", "fixes", "daemon"])
def test_what_is_worth_knowing_is_noted(host: Host, change: Change, words: str) -> None:
    change(host)
    assert any(words in finding.found for finding in host.findings() if finding.level == "note"), host.findings()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's workers become another user")
def test_who_the_workers_are_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sandbox, "USER", "no-such-user")
    monkeypatch.setattr(doctor.sandbox.user_of, "__defaults__", ("no-such-user",))
    note = next(finding for finding in host.findings() if finding.check == "workers")
    assert note.level == "note" and "user 0 (there is no no-such-user)" in note.found and "no-such-user" in note.fix
    monkeypatch.setattr(doctor.sandbox.user_of, "__defaults__", ("nobody",))
    note = next(finding for finding in host.findings() if finding.check == "workers")
    assert note.level == "note" and "nobody may not use" in note.found
    (host.root / "dev/xen/gntdev").chmod(0o606)
    assert Finding("ok", "workers", "workers run as user nobody") in host.findings()


def test_io_uring_that_is_forbidden_is_named_with_its_sysctl(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "unavailable", lambda: 1)
    host.write("proc/sys/kernel/io_uring_disabled", "2\n")
    assert any("kernel.io_uring_disabled is 2" in found for found in host.bad())


def test_a_guest_is_told_what_a_driver_domain_needs(host: Host) -> None:
    host.write("proc/xen/capabilities", "")
    assert "driver_domain=1" in host.findings()[0].found


def test_this_host_can_be_examined() -> None:
    assert Doctor(Config()).findings()

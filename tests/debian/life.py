"""What an admin does with the package, and what must hold after it; runs where tests/debian/run puts it: a chroot with
init scripts, or a container that systemd has booted.

A guest of a simulated machine works on a disk all the while; it verifies what it reads."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGE, LATER, VERSION, OLD = sys.argv[1:]         # OLD is 0.1.0
SYSTEMD = os.path.isdir("/run/systemd/system")      # else the init script
NAME, DISK, MACHINE = "python3-xenvbd", "domain1:xvda", "/dev/shm/machine"
WORKER = "xenvbd-worker 1"       # the title of the process that serves domain 1; the spare has none
CONFIG = Path("/etc/xenvbd/xenvbd.toml")
# Where other packages keep what they know of every package.
NOT_OURS = re.compile(r"/(proc|dev|run|tmp|root|var/lib/dpkg|var/lib/systemd|var/cache|etc/rc\d\.d|var/tmp)\b"
                      r"|__pycache__|/var/log/(dpkg|apt|alternatives|journal)|/etc/(machine-id|\.pwd.lock|.*tmp)|^/life")
DROP_IN = Path("/etc/systemd/system/xenvbd.service.d/test.conf")
MAKE_MACHINE = f"from xenvbd.hv import sim; m = sim.Machine.create({MACHINE!r}); m.add_domain(1)"


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def run(*command: str, status: int = 0, timeout: float = 90) -> str:
    """What a command printed; it must end with this status."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
                          check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == status, f"{' '.join(command)}: status {done.returncode}, not {status}:\n{done.stdout}"
    return done.stdout


def install(package: str, status: int = 0) -> str:
    """What dpkg said; the configuration is the test's own."""
    return run("dpkg", "--force-confold", "-i", package, status=status, timeout=180)


def within(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


def files() -> set[str]:
    """All files of this system that a package could have left."""
    found = {os.path.join(top, name) for top, directories, names in os.walk("/") for name in [*directories, *names]
             if not top.startswith(("/proc", "/sys", "/dev"))}
    return {path for path in found if not NOT_OURS.search(path)}


def pids(words: str) -> list[int]:
    """The processes that have this in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace") if entry.exists() else ""
        if words in text:
            found.append(int(entry.parent.name))
    return sorted(found)


def manager() -> int:
    if SYSTEMD:
        return int(run("systemctl", "show", "--property=MainPID", "--value", "xenvbd"))
    return int(Path("/run/xenvbd/xenvbd.pid").read_text())


def started_at() -> float:
    """When the manager that answers now began."""
    ask = "from xenvbd.control import Client; print(Client('/run/xenvbd/control.sock').call('ping')['started'])"
    return float(run("python3", "-c", ask))


class Guest:
    """The frontend's process and how far it has come."""

    def __init__(self) -> None:
        self.output = Path("/tmp/guest")
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                ["python3", "-m", "xenvbd.frontend", "--json", "--hypervisor", f"sim:{MACHINE}", "--domid", "1",
                 "--devid", "51712", "--rw", "randrw", "--bs", "4096", "--iodepth", "16", "--verify", "--seconds",
                 "600s", "--interval", "0.1s"], stdout=out, stderr=subprocess.STDOUT)
        within(lambda: self.events("connected"), "the guest connects")
        self.worker = pids(WORKER)
        assert len(self.worker) == 1

    def events(self, kind: str) -> list[dict[str, object]]:
        lines = self.output.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in found if event["event"] == kind]

    def is_served(self) -> None:
        """By the same worker as ever: two reports more, the second later than all that is done now."""
        assert pids(WORKER) == self.worker, (pids(WORKER), self.worker)
        before = self.progress()
        within(lambda: self.progress() > before, "the guest's requests are answered")

    def progress(self) -> str:
        events = self.events("progress")
        return f"{len(events):08}" + json.dumps(events[-1]["ops"] if events else 0)

    def finish(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.output.read_text()[-2000:]
        result = self.events("result")[0]
        assert result["errors"] == 0 and result["mismatches"] == 0 and result["verified"], result


def install_on_a_host_without_xen() -> None:
    say("installed on a host without Xen: nothing is started, and nothing fails")
    install(PACKAGE)
    run("service", "xenvbd", "status", status=3)
    run("service", "xenvbd", "start")
    run("service", "xenvbd", "status", status=3)
    assert run("xenvbd", "--version").split()[0] == "xenvbd"
    run("xenvbd", "list", status=5)
    assert run("getent", "passwd", "xenvbd").endswith(":/nonexistent:/usr/sbin/nologin\n")
    assert "without Xen" in run("xenvbd", "serve", status=6)


def autopkgtests() -> None:
    say("the package's own tests, against what is installed")
    for test in ("smoke", "simulated-machine"):
        run(f"/autopkgtest/{test}", timeout=180)


def become_a_host_under_xen() -> None:
    say("now under Xen, as far as the init system can tell; the configuration names a simulated machine")
    run("python3", "-c", MAKE_MACHINE)
    store = subprocess.Popen(["python3", "-m", "xenvbd.store_sim", MACHINE, "--domains", "0,1"],
                             stdout=subprocess.PIPE)
    assert store.stdout and store.stdout.readline() == b"ready\n"
    # With the slash: a simulated machine's daemon keeps to the machine's directory if the default is not changed.
    CONFIG.write_text(f'[backend]\nhypervisor = "sim:{MACHINE}"\nkinds = ["qdisk"]\nruntime-dir = "/run/xenvbd/"\n')
    if SYSTEMD:
        DROP_IN.parent.mkdir()
        DROP_IN.write_text("[Unit]\nConditionPathExists=\n")
        run("systemctl", "daemon-reload")
    else:
        Path("/sys/hypervisor").mkdir(parents=True)
        Path("/sys/hypervisor/type").write_text("xen\n")


def the_init_scripts_verbs() -> None:
    say("start, status, reload, restart, stop, with LSB's exit statuses")
    run("service", "xenvbd", "reload", status=7)
    run("service", "xenvbd", "start")
    run("service", "xenvbd", "status")
    first = manager()
    run("service", "xenvbd", "start")
    run("service", "xenvbd", "reload")
    assert manager() == first
    run("service", "xenvbd", "restart")
    assert manager() != first
    good = CONFIG.read_text()
    CONFIG.write_text("[backend]\nkind = 1\n")
    for verb in ("start", "restart", "reload"):
        assert "unknown key 'kind'" in run("service", "xenvbd", verb, status=6)
    CONFIG.write_text(good)
    run("service", "xenvbd", "status")
    os.kill(manager(), signal.SIGKILL)
    within(lambda: not pids("xenvbd serve"), "the manager is dead")
    run("service", "xenvbd", "status", status=1)
    run("service", "xenvbd", "start")
    run("service", "xenvbd", "stop")
    run("service", "xenvbd", "status", status=3)
    run("service", "xenvbd", "stop")
    run("service", "xenvbd", "nonsense", status=3)
    run("service", "xenvbd", "start")


def the_units_verbs() -> None:
    say("start, reload, restart, stop; what was killed comes back")
    run("systemctl", "start", "xenvbd")
    first = manager()
    run("systemctl", "reload", "xenvbd")
    assert manager() == first
    run("systemctl", "restart", "xenvbd")
    assert manager() not in (0, first)
    good = CONFIG.read_text()
    CONFIG.write_text("[backend]\nkind = 1\n")
    run("systemctl", "reload", "xenvbd", status=1)
    assert "unknown key 'kind'" in run("journalctl", "--unit", "xenvbd")
    CONFIG.write_text(good)
    run("systemctl", "is-active", "xenvbd")
    killed = manager()
    os.kill(killed, signal.SIGKILL)
    within(lambda: manager() not in (0, killed), "the manager comes back")
    run("systemctl", "stop", "xenvbd")
    run("systemctl", "start", "xenvbd")


def upgrade(guest: Guest) -> None:
    say("upgraded: the manager starts again in its place, the worker serves on")
    before, started = manager(), started_at()
    said = install(LATER)
    assert f"workers of {VERSION} serve guests' disks on" in said, said
    assert manager() == before and pids("xenvbd serve") == [before] and started_at() > started
    guest.is_served()
    assert DISK in run("xenvbd", "list")


def upgrade_with_a_configuration_that_is_wrong(guest: Guest) -> None:
    say("upgraded with a configuration that the new version does not take: the manager is left alone, and that is said")
    before, started, good = manager(), started_at(), CONFIG.read_text()
    CONFIG.write_text(good + "[backend2]\n")
    said = install(LATER)
    CONFIG.write_text(good)
    assert "backend2" in said and "still running as" in said and 'then "xenvbd restart --manager"' in said, said
    assert manager() == before and started_at() == started
    guest.is_served()


def downgrade_is_refused(guest: Guest) -> None:
    say("an earlier version while the disk is served: refused, with what to do first")
    before = manager()
    said = install(PACKAGE, status=1)
    assert f"not taken back from {VERSION}+later to {VERSION}: " in said and DISK in said, said
    assert "xenvbd detach" in said, said
    assert run("dpkg-query", "-W", "-f=${Version} ${Status}", NAME) == f"{VERSION}+later install ok installed"
    assert manager() == before
    guest.is_served()


def restart_the_manager(guest: Guest) -> None:
    say("restarted by the admin: a new manager, the same worker")
    before = manager()
    run("service", "xenvbd", "restart")
    assert manager() != before
    guest.is_served()
    assert DISK in run("xenvbd", "list")


def replace_all(guest: Guest) -> None:
    say("moved on to the installed version: another worker, the guest goes on")
    run("xenvbd", "restart", "--all")
    within(lambda: len(pids(WORKER)) == 1, "the old worker has gone")
    assert pids(WORKER) != guest.worker
    guest.worker = pids(WORKER)
    guest.is_served()
    run("service", "xenvbd", "status")


def its_worker_is_confined(guest: Guest) -> None:
    say("the worker's memory is limited, it leaves no core, is filtered and can gain nothing")
    process = Path(f"/proc/{guest.worker[0]}")
    limits = dict(re.findall(r"^(Max [\w ]+?)  +(\S+)", (process / "limits").read_text(), re.M))
    assert int(limits["Max data size"]) and limits["Max core file size"] == "0", limits
    fields = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert (fields["Seccomp"], fields["NoNewPrivs"], fields["CapBnd"]) == ("2", "1", "0" * 16), fields
    assert int(fields["CapEff"], 16) == 0, fields


def removal_is_refused(guest: Guest) -> None:
    say("removal while the disk is served: refused, with the disk's name")
    before = manager()
    said = run("dpkg", "-r", NAME, status=1)
    assert DISK in said and "xenvbd detach" in said, said
    assert run("dpkg-query", "-W", "-f=${Status}", NAME).endswith("ok installed")
    assert manager() == before
    run("service", "xenvbd", "stop")
    assert "domain 1" in run("dpkg", "-r", NAME, status=1)          # also without its manager
    run("service", "xenvbd", "start")
    guest.is_served()


def downgrade_without_a_disk() -> None:
    say("an earlier version, and 0.1.0, when no disk is served")
    run("xenvbd", "detach", DISK)
    within(lambda: not pids(WORKER), "the worker ends with its last disk")
    for package in PACKAGE, OLD:
        install(package)
        run("service", "xenvbd", "status")
    assert run("xenvbd", "--version").split()[1].startswith("0.1.")


def upgrade_from_the_first_release(guest: Guest) -> None:
    say("upgraded from 0.1.0: the worker serves on, and is followed by one of this version when it dies")
    assert "workers of 0.1.0-1 serve guests' disks on" in install(PACKAGE)
    guest.is_served()
    os.kill(guest.worker[0], signal.SIGKILL)
    within(lambda: pids(WORKER) not in ([], guest.worker), "another worker")
    guest.worker = pids(WORKER)
    guest.is_served()
    assert DISK in run("xenvbd", "list")


def the_first_release_is_not_to_be_gone_back_to(guest: Guest) -> None:
    say("back to 0.1.0 under a disk, as dpkg lets one: that is said, the worker serves on, this version takes it over")
    assert "let dpkg go on all the same" in install(OLD)
    guest.is_served()
    install(PACKAGE)
    guest.is_served()
    run("xenvbd", "restart", "--worker", DISK)
    within(lambda: len(pids(WORKER)) == 1 and pids(WORKER) != guest.worker, "another worker")
    guest.worker = pids(WORKER)
    guest.is_served()


def attach() -> Guest:
    """A guest with a disk of zeros, as it expects."""
    run("truncate", "-s", "0", "/srv/disk.img")
    run("truncate", "-s", "64M", "/srv/disk.img")
    run("xenvbd", "attach", "domain1", "/srv/disk.img", "xvda", "--no-wait")
    guest = Guest()
    guest.is_served()
    return guest


def remove_and_purge(before: set[str]) -> None:
    say("removed: the manager is stopped, the configuration stays")
    run("xenvbd", "detach", DISK)
    within(lambda: not pids(WORKER), "the worker ends with its last disk")
    run("dpkg", "-r", NAME)
    within(lambda: not pids("xenvbd-worker"), "the spare worker ends with its manager")
    assert not pids("xenvbd serve") and CONFIG.exists() and not Path("/usr/bin/xenvbd").exists()
    say("purged: nothing is left")
    run("dpkg", "-P", NAME)
    assert not files() - before, sorted(files() - before)
    run("getent", "passwd", "xenvbd", status=2)
    run("getent", "group", "xenvbd", status=2)
    assert not Path("/run/xenvbd").exists()


def main() -> None:
    before = files() | {"/sys/hypervisor", "/sys/hypervisor/type", "/srv/disk.img", str(DROP_IN), str(DROP_IN.parent)}
    install_on_a_host_without_xen()
    autopkgtests()
    become_a_host_under_xen()
    the_units_verbs() if SYSTEMD else the_init_scripts_verbs()
    say("a guest verifies what it reads from a disk of the installed daemon")
    guest = attach()
    its_worker_is_confined(guest)
    upgrade(guest)
    upgrade_with_a_configuration_that_is_wrong(guest)
    replace_all(guest)
    restart_the_manager(guest)
    downgrade_is_refused(guest)
    guest.finish()
    downgrade_without_a_disk()
    guest = attach()
    upgrade_from_the_first_release(guest)
    the_first_release_is_not_to_be_gone_back_to(guest)
    removal_is_refused(guest)
    guest.finish()
    remove_and_purge(before)


def story() -> str:
    """What there is to look at after a failure."""
    log = run("journalctl", "--unit", "xenvbd") if SYSTEMD else Path("/var/log/xenvbd/xenvbd.log").read_text()
    ends = {"xenvbd's log": log, "the guest": Path("/tmp/guest").read_text(), "processes": run("ps", "axfww")}
    return "\n".join(f"== {what}\n{text[-3000:]}" for what, text in ends.items())


if __name__ == "__main__":
    try:
        main()
    except AssertionError:
        print(story())
        raise

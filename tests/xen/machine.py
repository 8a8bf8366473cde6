"""A real Xen in QEMU's software emulation: boots it, snapshots it, runs commands in dom0, drives guests.

    with Machine(images, workdir) as xen:
        xen.dom0("xl list")
        guest = xen.guest("web1")
        guest.run("mke2fs -q /dev/xvda", timeout=60)

Everything has a deadline; a command that fails raises CommandFailed with what it printed.  The consoles are kept as
files in workdir.  The images come from tests/xen/build-images.
"""
from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import signal
import subprocess
from pathlib import Path
from types import TracebackType

from tests.xen.guest import Guest
from tests.xen.line import Line, Shell

XEN = "dom0_mem=2048M,max:2048M dom0_max_vcpus=1 com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=warning"
LINUX = "root=/dev/vda rw console=hvc0 init=/sbin/test-init quiet"
# SMAP makes dom0 fault under TCG 7.2, RDTSCP makes PVH guests loop, AVX is at times an invalid opcode in them.
QEMU = ["qemu-system-x86_64", "-cpu", "max,-smap,-rdtscp,-xsave", "-smp", "2", "-m", "4096", "-display", "none",
        "-no-reboot", "-nic", "none", "-S", "-device", "virtio-serial-pci,id=ports,max_ports=8"]
THREADS = ["-accel", "tcg,thread=multi"]
# One thread that counts instructions: the guest's clock shows work, not how busy the host is.
ICOUNT = ["-icount", "shift=0,sleep=off", "-accel", "tcg,thread=single"]
PORTS = ("dom0", "guest1", "guest2", "guest3", "guest4")
BOOT_SECONDS = 300
READY = "ready"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG


def host() -> str:
    """What a snapshot is good for: this QEMU, and this processor, whose time stamps Xen has measured."""
    version = subprocess.run([QEMU[0], "--version"], check=True, capture_output=True, text=True).stdout
    return version + "".join(sorted({line for line in Path("/proc/cpuinfo").read_text().splitlines()
                                     if line.startswith("model name")}))


class Machine:
    """One emulated machine with Xen and a Debian dom0.

    images: where build-images put them; workdir: for the disk's overlay, sockets and consoles; icount: count
    instructions instead of time (for measurements; boots anew, from earlier's disk if that is given); earlier: what
    keep() left; without: features of the processor to leave out.
    """

    def __init__(self, images: Path, workdir: Path, *, icount: bool = False, earlier: Path | None = None,
                 without: tuple[str, ...] = ()):
        self.images, self.workdir, self.icount, self.earlier = images, workdir, icount, earlier
        self._arguments = [",-".join((word, *without)) if word.startswith("max,") else word for word in QEMU]
        self.logs = workdir
        self._overlay = workdir / "overlay.qcow2"
        self._lines: dict[str, Line] = {}
        self._qemu: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        self.workdir.mkdir(parents=True, exist_ok=True)
        start = self.earlier if self.earlier and self.earlier.exists() else None
        if self.icount and not start:
            self._new_overlay(self._overlay)
        else:
            subprocess.run(["cp", "--reflink=auto", str(start or self._snapshot()), str(self._overlay)], check=True)
        if self.icount:
            self.boot()
        else:
            self.load()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()
        self._overlay.unlink(missing_ok=True)

    # -- life ---------------------------------------------------------------------------------------------------

    def _new_overlay(self, path: Path) -> None:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str((self.images / "dom0.img").resolve()),
                        "-F", "raw", str(path)], check=True)

    def _snapshot(self) -> Path:
        """An overlay with a snapshot of a dom0 that is ready: made once for these images and this machine."""
        key = hashlib.sha256(repr([XEN, LINUX, QEMU, THREADS, PORTS, host()]).encode()).hexdigest()[:12]
        path = self.images / f"ready-{key}.qcow2"
        if not path.exists():
            self._new_overlay(self._overlay)
            self.boot()
            self.save(READY)
            self.stop()
            fresh = path.with_suffix(".new")
            subprocess.run(["cp", "--reflink=auto", str(self._overlay), str(fresh)], check=True)
            fresh.rename(path)
        return path

    def boot(self) -> None:
        """Start QEMU and boot to a dom0 that is ready."""
        patience = BOOT_SECONDS * (6 if self.icount else 1)
        self._start()
        self._monitor("cont")
        self._lines["console"].until("DOM0-READY", patience)
        self._shell.sync(patience / 5)

    def load(self, snapshot: str = READY) -> None:
        """Be again as at save(), in a new QEMU.

        In the same one the processor's time stamps would leap ahead by all the time since save(): QEMU lets them never
        go back, and every other clock does.  Xen and its guests then lose timers ("Platform timer appears to have
        unexpectedly wrapped").
        """
        self.stop()
        self._start()
        said = self._monitor(f"loadvm {snapshot}", 120)
        if "rror" in said:
            raise AssertionError(f"loadvm {snapshot}: {said}")
        self._monitor("cont")
        self._shell.sync(60)

    def save(self, snapshot: str) -> None:
        """Keep the machine as it is, running guests and all, under this name."""
        self._monitor(f"savevm {snapshot}", 180)

    def snapshots(self) -> set[str]:
        """The names that load() takes."""
        rows = self._monitor("info snapshots").splitlines()
        return {row.split()[1] for row in rows if row[:2] in ("--", *(f"{n} " for n in range(10)))}

    def keep(self, path: Path) -> None:
        """End QEMU, and keep its disk with all snapshots for a later Machine."""
        self.stop()
        fresh = path.with_suffix(".new")
        subprocess.run(["cp", "--reflink=auto", str(self._overlay), str(fresh)], check=True)
        fresh.rename(path)

    def _start(self) -> None:
        arguments = [*self._arguments, *(ICOUNT if self.icount else THREADS)]
        sockets = {name: self.workdir / f"{name}.sock" for name in ("console", "monitor", *PORTS)}
        for name, path in sockets.items():
            path.unlink(missing_ok=True)
            arguments += ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]
        for number, name in enumerate(PORTS, 1):
            arguments += ["-device", f"virtserialport,bus=ports.0,nr={number},chardev={name},name={name}"]
        self._qemu = subprocess.Popen(
            [*arguments, "-serial", "chardev:console", "-mon", "chardev=monitor",
             "-kernel", str(self.images / "xen"), "-append", XEN,
             "-initrd", f"{self.images}/vmlinuz {LINUX},{self.images}/initrd.img",
             "-drive", f"file={self._overlay},format=qcow2,if=virtio,cache=unsafe"],
            stdin=subprocess.DEVNULL, stderr=(self.workdir / "qemu.log").open("wb"), preexec_fn=_die_with_parent)
        self._lines = {name: Line(path, self.logs / f"{name}.log") for name, path in sockets.items()}
        self._shell = Shell("dom0", self._lines["dom0"])
        self._lines["monitor"].until(r"\(qemu\) ", 60)

    def stop(self) -> None:
        """End QEMU: it writes what it knows of its disk's snapshots, if it still answers."""
        if self._qemu:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._lines["monitor"].send("quit\n")
                self._qemu.wait(30)
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None
        for line in self._lines.values():
            line.close()

    def _monitor(self, command: str, timeout: float = 30) -> str:
        self._lines["monitor"].send(command + "\n")
        return self._lines["monitor"].until(r"\n\(qemu\) ", timeout)[0]

    # -- use ----------------------------------------------------------------------------------------------------

    def log_to(self, directory: Path) -> None:
        """Keep the consoles in this directory from now on."""
        directory.mkdir(parents=True, exist_ok=True)
        self.logs = directory
        for name, line in self._lines.items():
            line.log_to(directory / f"{name}.log")

    def dom0(self, command: str, timeout: float = 60, check: bool = True) -> str:
        """Run a shell command in dom0; what it printed.  CommandFailed unless it exits 0 or check is off."""
        return self._shell.run(command, timeout, check)

    def version(self) -> tuple[int, int]:
        """Xen's: (4, 20)."""
        major, minor = self.dom0("cat /sys/hypervisor/version/major /sys/hypervisor/version/minor").split()
        return int(major), int(minor)

    @property
    def shell(self) -> Shell:
        """dom0's shell, for a command that shall go on while something else happens."""
        return self._shell

    def registers(self) -> str:
        """Where the processors are, three times: of a machine that does not answer."""
        return "\n".join(self._monitor("info registers -a") for _ in range(3))

    def put(self, file: Path, path: str) -> None:
        """Copy a file into dom0."""
        data = file.read_bytes()
        self.dom0(f"rm -f {path}")
        for at in range(0, len(data), 65536):
            text = base64.b64encode(data[at:at + 65536]).decode()
            self.dom0(f"echo {text} | base64 -d >>{path}")
        found = self.dom0(f"sha256sum <{path}").split()[0]
        assert found == hashlib.sha256(data).hexdigest(), f"{path} did not arrive whole"

    def guest(self, name: str, port: int = 1, **given: object) -> Guest:
        """Create a guest (arguments: Guest.create) with its console on a port, and wait for its shell."""
        guest = self.known_guest(name, port)
        guest.create(**given)                       # type: ignore[arg-type]
        return guest

    def known_guest(self, name: str, port: int = 1) -> Guest:
        """A guest that a snapshot holds, by name."""
        return Guest(self, name, port, self._lines[f"guest{port}"])

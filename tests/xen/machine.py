"""A real Xen in QEMU's software emulation: boots it (or resumes a snapshot), runs commands in dom0, drives guests.

    with Machine(images, workdir) as xen:
        xen.dom0("xl list")
        guest = xen.guest("web1")
        guest.run("mke2fs -q /dev/xvda", timeout=60)

Everything has a deadline; a command that fails raises CommandFailed with what it printed.  The consoles are kept as
files in workdir.  The images come from tests/xen/build-images.
"""
from __future__ import annotations

import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

DOM0 = "dom0_mem=2048M,max:2048M dom0_max_vcpus=1 com1=115200,8n1 console=com1 loglvl=warning"
# SMAP makes dom0 fault under TCG 7.2, RDTSCP makes PVH guests loop.
QEMU = ["qemu-system-x86_64", "-cpu", "max,-smap,-rdtscp", "-smp", "2", "-m", "4096", "-display", "none", "-no-reboot",
        "-nic", "none"]
SNAPSHOT = "dom0-ready"
BOOT_SECONDS = 240


class CommandFailed(AssertionError):
    """A command exited with a status other than 0."""

    def __init__(self, where: str, command: str, status: int, output: str):
        super().__init__(f"{where}: {command!r} exited {status}:\n{output}")
        self.status, self.output = status, output


class Line:
    """A console on a UNIX socket, kept in a file: what comes is buffered, until() takes it up to a pattern."""

    def __init__(self, path: Path, log: Path):
        self._socket = socket.socket(socket.AF_UNIX)
        _retry(lambda: self._socket.connect(str(path)), 10)
        self._log = log.open("ab", buffering=0)
        self._buffer = b""

    def send(self, text: str) -> None:
        """Type this."""
        self._socket.sendall(text.encode())

    def until(self, pattern: str, timeout: float) -> tuple[str, re.Match[bytes]]:
        """What came before the pattern, and its match.  TimeoutError with the tail of the console otherwise."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern.encode(), self._buffer)):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no {pattern!r} in {timeout:.0f} s; the console ends with:\n"
                                   + self._buffer[-3000:].decode(errors="replace"))
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise EOFError("QEMU is gone; the console ends with:\n" + self._buffer[-3000:].decode(errors="replace"))
            self._log.write(data)
            self._buffer += data
        before, self._buffer = self._buffer[:match.start()], self._buffer[match.end():]
        return before.decode(errors="replace").replace("\r", ""), match

    def close(self) -> None:
        self._socket.close()
        self._log.close()


def _retry(attempt: Callable[[], None], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Machine:
    """One emulated machine with Xen and a Debian dom0.

    images: where build-images put them; workdir: for the disk overlay, sockets and consoles; icount: count
    instructions instead of time (for measurements; boots anew).
    """

    def __init__(self, images: Path, workdir: Path, *, icount: bool = False):
        self.images, self.workdir, self.icount = images, workdir, icount
        self._drives = 0

    def __enter__(self) -> Machine:
        self.workdir.mkdir(parents=True, exist_ok=True)
        if self.icount:
            self._boot(self._new_overlay(self.workdir / "overlay.qcow2"))
        else:
            self._resume(self._snapshot())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stop()

    # -- life ---------------------------------------------------------------------------------------------------

    def _new_overlay(self, path: Path) -> Path:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(self.images / "dom0.img"), "-F", "raw",
                        str(path)], check=True)
        return path

    def _snapshot(self) -> Path:
        """An overlay that holds a snapshot of a dom0 that is ready; made once for these images."""
        path = self.images / "ready.qcow2"
        if not path.exists():
            fresh = self._new_overlay(self.images / "ready.new")
            self._boot(fresh)
            self._monitor(f"savevm {SNAPSHOT}", 120)
            self._stop()
            fresh.rename(path)
        return path

    def _boot(self, overlay: Path) -> None:
        self._start(overlay)
        self._console.until("DOM0-READY", BOOT_SECONDS * (4 if self.icount else 1))
        self.dom0("true")

    def _resume(self, snapshot: Path) -> None:
        overlay = self.workdir / "overlay.qcow2"
        shutil.copyfile(snapshot, overlay)
        self._start(overlay, "-loadvm", SNAPSHOT)
        self.dom0("true")

    def _start(self, overlay: Path, *extra: str) -> None:
        tcg = ["-accel", "tcg,thread=multi"]
        if self.icount:
            tcg = ["-icount", "shift=0,sleep=off", "-accel", "tcg,thread=single"]
        root = "root=/dev/vda rw console=hvc0 init=/sbin/test-init quiet"
        console, monitor = self.workdir / "console.sock", self.workdir / "monitor.sock"
        for path in (console, monitor):
            path.unlink(missing_ok=True)
        self._qemu = subprocess.Popen(
            [*QEMU, *tcg, "-serial", f"unix:{console},server=on,wait=off",
             "-monitor", f"unix:{monitor},server=on,wait=off", "-kernel", str(self.images / "xen"), "-append", DOM0,
             "-initrd", f"{self.images}/vmlinuz {root},{self.images}/initrd.img",
             "-drive", f"file={overlay},format=qcow2,if=virtio,cache=unsafe", *extra],
            stdin=subprocess.DEVNULL, stderr=(self.workdir / "qemu.log").open("wb"))
        self._console = Line(console, self.workdir / "console.log")
        self._monitor_line = Line(monitor, self.workdir / "monitor.log")
        self._monitor_line.until(r"\(qemu\) ", 60)

    def _stop(self) -> None:
        self._qemu.kill()
        self._qemu.wait()
        self._console.close()
        self._monitor_line.close()

    def _monitor(self, command: str, timeout: float = 30) -> str:
        self._monitor_line.send(command + "\n")
        return self._monitor_line.until(r"\n\(qemu\) ", timeout)[0]

    # -- use ----------------------------------------------------------------------------------------------------

    def dom0(self, command: str, timeout: float = 60, check: bool = True) -> str:
        """Run a shell command in dom0; what it printed.  CommandFailed unless it exits 0 or check is off."""
        mark = secrets.token_hex(6)
        # The mark is typed in two parts, so that an echo of the command cannot be taken for its end.
        self._console.send(f"{{ {command}\n}} 2>&1; echo {mark[:4]}''{mark[4:]} $?\n")
        output, match = self._console.until(rf"{mark} (\d+)\r*\n", timeout)
        if check and int(match[1]):
            raise CommandFailed("dom0", command, int(match[1]), output)
        return output.strip("\n")

    def add_disk(self, image: Path) -> str:
        """Plug a raw image in as a disk; its device in dom0."""
        self._drives += 1
        device = f"/dev/vd{'abcdefgh'[self._drives]}"
        self._monitor(f"drive_add 0 if=none,id=d{self._drives},file={image},format=raw,cache=unsafe")
        self._monitor(f"device_add virtio-blk-pci,drive=d{self._drives},id=dev{self._drives}")
        self.dom0(f"for i in $(seq 100); do [ -b {device} ] && break; sleep 0.1; done; [ -b {device} ]")
        return device

    def guest(self, name: str, *, kind: str = "pv", disks: tuple[str, ...] = (), memory: int = 448,
              arguments: str = "", extra: str = "", timeout: float = 120) -> Guest:
        """Create a guest with xl and wait for its shell.  disks: xl's disk specifications; extra: xl.cfg lines."""
        config = "\n".join([f'name="{name}"', f'type="{kind}"', f"memory={memory}", "vcpus=1",
                            'kernel="/guest/vmlinuz"',
                            'ramdisk="/guest/initrd.img"', f'extra="console=hvc0 quiet {arguments}"',
                            f"disk={list(disks)!r}", 'on_crash="destroy"', extra])
        self.dom0(f"cat > /tmp/{name}.cfg <<'EOF'\n{config}\nEOF\nxl create -q /tmp/{name}.cfg", timeout)
        return Guest(self, name, timeout)


class Guest:
    """A guest with a shell on its console, driven from dom0 through `xl console`."""

    def __init__(self, machine: Machine, name: str, timeout: float):
        self.machine, self.name = machine, name
        self._log, self._input = f"/tmp/{name}.console", f"/tmp/{name}.in"
        machine.dom0(f"rm -f {self._log} {self._input}; mkfifo {self._input}; "
                     f"(setsid script -qfc 'xl console {name}' {self._log} <{self._input} >/dev/null 2>&1 &); "
                     f"(setsid sleep 100000 >{self._input} &)")
        self._wait("GUEST-READY", timeout)

    @property
    def domid(self) -> int:
        return int(self.machine.dom0(f"xl domid {self.name}"))

    def _wait(self, text: str, timeout: float) -> None:
        tries = int(timeout * 5)
        self.machine.dom0(f"for i in $(seq {tries}); do grep -q '{text}' {self._log} && break; sleep 0.2; done; "
                          f"grep -q '{text}' {self._log} || {{ tail -c 3000 {self._log}; false; }}", timeout + 30)

    def run(self, command: str, timeout: float = 60, check: bool = True) -> str:
        """Run a shell command in the guest; what it printed.  CommandFailed unless it exits 0 or check is off."""
        mark = secrets.token_hex(6)
        self.machine.dom0(f"cat > {self._input} <<'EOF'\necho {mark[:4]}''{mark[4:]}-begin; {{ {command}\n}} 2>&1; "
                          f"echo {mark[:4]}''{mark[4:]} $?\nEOF")
        self._wait(f"^{mark} [0-9]", timeout)
        text = self.machine.dom0(f"cat {self._log}")
        output, status = re.findall(rf"{mark}-begin\n(.*?)^{mark} (\d+)", text, re.S | re.M)[-1]
        if check and int(status):
            raise CommandFailed(self.name, command, int(status), output)
        return output.strip("\n")

    def console(self) -> str:
        """Everything the guest's console has shown."""
        return self.machine.dom0(f"cat {self._log}")

    def destroy(self) -> None:
        self.machine.dom0(f"xl destroy {self.name}")

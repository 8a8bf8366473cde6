"""A guest of the emulated machine, with a shell on its console."""
from __future__ import annotations

from typing import TYPE_CHECKING

from tests.xen.line import Line, Shell, wait

if TYPE_CHECKING:
    from tests.xen.machine import Machine

# dom0's side of a console: xenconsoled's terminal of the domain on one hand, a virtio port on the other.  A port can be
# opened once only, hence one descriptor for both directions.
RELAY = """
[ -f /run/relay{port} ] && kill -9 -$(cat /run/relay{port}) 2>/dev/null
tty={tty}
stty raw -echo -F $tty      # else what the guest prints is echoed back to it
export tty
setsid sh -c 'echo $$ >/run/relay{port}; cat <$tty >&3 & exec cat <&3 >$tty' 3<>/run/ports/guest{port} >/dev/null 2>&1 &
"""


class Guest:
    """One guest: made with xl, driven through its console.

    A guest of xl.cfg's type pv or pvh has Debian's kernel; what it runs is busybox, e2fsprogs and, with fio=True, fio.
    """

    def __init__(self, machine: Machine, name: str, port: int, line: Line):
        self.machine, self.name, self.port = machine, name, port
        self.line = line
        self.shell = Shell(name, line)

    @property
    def domid(self) -> int:
        """Its number, while it lives."""
        return int(self.machine.dom0(f"xl domid {self.name}"))

    def create(self, *, kind: str = "pv", disks: tuple[str, ...] = (), fio: bool = False, memory: int | None = None,
               vcpus: int = 1, arguments: str = "", extra: str = "", paused: bool = False,
               timeout: float = 180) -> None:
        """Create it and wait for its shell.

        disks: xl's disk specifications; arguments: for its kernel; extra: more lines for xl.cfg; paused: leave it
        paused (unpause() then), so that disks can be attached before it runs.
        """
        size = memory or (448 if fio else 160)
        lines = [f'name="{self.name}"', f'type="{kind}"', f"memory={size}", f"vcpus={vcpus}",
                 'kernel="/guest/vmlinuz"', f'ramdisk="/guest/{"fio" if fio else "small"}.img"',
                 f'extra="console=hvc0 quiet {arguments}"', f"disk={list(disks)!r}", 'on_crash="destroy"', extra]
        self.machine.dom0(f"cat >/tmp/{self.name}.cfg <<'EOF'\n" + "\n".join(lines) + "\nEOF")
        self.line.clear()
        self.machine.dom0(f"xl create -q -p /tmp/{self.name}.cfg", timeout)
        self.follow()
        if not paused:
            self.unpause(timeout)

    def follow(self) -> None:
        """Bring the console of the domain that has this name now to our port."""
        node = f"/local/domain/{self.domid}/console/tty"
        tty = wait(node, lambda: self.machine.dom0(f"xenstore-read {node} 2>/dev/null", check=False), 60)
        self.machine.dom0(RELAY.format(port=self.port, tty=tty))

    def unpause(self, timeout: float = 180) -> None:
        """Let it run, and wait for its shell."""
        self.machine.dom0(f"xl unpause {self.name}")
        self.ready(timeout)

    def ready(self, timeout: float = 180) -> None:
        """Wait for its shell."""
        self.line.until("GUEST-READY", timeout)
        self.shell.sync(timeout)

    def run(self, command: str, timeout: float = 60, check: bool = True) -> str:
        """Run a shell command in it; what it printed.  CommandFailed unless it exits 0 or check is off."""
        return self.shell.run(command, timeout, check)

    def wait_for(self, condition: str, seconds: int = 30) -> None:
        """Wait until a shell condition holds in it."""
        self.run(f"until {condition}; do sleep 0.2; done", seconds)

    def destroy(self) -> None:
        """xl destroy."""
        self.machine.dom0(f"xl destroy {self.name}")

    def wait_for_end(self, domid: int, seconds: float = 60) -> None:
        """Wait until the domain that had this number has left nothing in Xen, nor in xenstore."""
        def ended() -> bool:
            return not self.machine.dom0(f"xl list | awk '$2 == {domid}'; "
                                         f"xenstore-ls -f /local/domain/{domid} 2>/dev/null", check=False)
        wait(f"the end of {self.name}, domain {domid}", ended, seconds)

"""What the package makes of a host: who its processes are, what they may open, and what doctor says of it all."""
from __future__ import annotations

from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd


def test_a_worker_is_no_root_and_has_given_up_what_it_does_not_need(pv: Guest, xenvbd: Xenvbd) -> None:
    xenvbd.attach(pv, xenvbd.image("web"), "xvdb")
    [worker] = xenvbd.workers()
    assert xenvbd.dom0(f"ps -o user= -p {worker}") == "xenvbd"
    status = xenvbd.dom0(f"grep -E '^(CapEff|CapPrm|NoNewPrivs|Seccomp):' /proc/{worker}/status").split()
    assert status == ["CapPrm:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    pv.run("dd if=/dev/urandom of=/dev/xvdb bs=64k count=16 conv=fsync 2>/dev/null")


def test_udev_gives_the_workers_user_the_one_device_that_workers_open(xenvbd: Xenvbd) -> None:
    xenvbd.dom0("cd /dev/xen; chown root:root gntdev evtchn; chmod 600 gntdev evtchn; "
                "/lib/systemd/systemd-udevd --daemon; "
                "udevadm trigger --action=add --subsystem-match=misc; udevadm settle --timeout=60", 120)
    assert xenvbd.dom0("cd /dev/xen; stat -c '%n %U:%G %a' gntdev evtchn").splitlines() == [
        "gntdev root:xenvbd 660", "evtchn root:root 600"]


def test_doctor_finds_nothing_wrong_where_the_package_was_installed(xenvbd: Xenvbd) -> None:
    said = xenvbd.dom0("xenvbd doctor; echo status $?")
    assert "Xen {}.{}".format(*xenvbd.machine.version()) in said and said.endswith("status 0"), said

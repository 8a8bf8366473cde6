"""What cannot be served is refused at attach, with a reason that an admin can act on, and nothing stays behind."""
from __future__ import annotations

import pytest

from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import Xenvbd

FAILED, PROPERTY, TIMED_OUT, NOT_ALLOWED = 1, 2, 4, 7
# An automounter that never answers: what is opened below /srv/dead hangs, as on a dead server's NFS.
HANGING = """
import ctypes, os
ends = os.pipe()
options = f"fd={ends[1]},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect"
ctypes.CDLL(None).mount(b"automount", b"/srv/dead", b"autofs", 0, options.encode())
while True:
    os.read(ends[0], 4096)
"""


def test_a_target_that_cannot_be_served_is_refused_with_its_reason(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web", "8M"), pv.domid
    xenvbd.dom0("mkdir /srv/directory; ln -s web.img /srv/link.img; truncate -s 1000 /srv/odd.img; mkfifo /srv/fifo; "
                "truncate -s 0 /srv/none.img; cp /srv/odd.img /root/elsewhere.img")
    for target, reason, status in [
            ("/srv/missing.img", "No such file", FAILED),
            ("/srv/directory", "directory", FAILED),
            ("/srv/fifo", "FIFO", FAILED),
            ("/srv/link.img", "link", FAILED),
            ("/srv/odd.img", "1000", PROPERTY),
            ("/srv/none.img", "empty", PROPERTY),
            ("/root/elsewhere.img", "allow", NOT_ALLOWED)]:
        output = xenvbd.dom0(f"xenvbd attach pv {target} xvdb; echo status $?", 90)
        assert target in output and reason in output and "Traceback" not in output, output
        assert output.splitlines()[-1] == f"status {status}", output
    assert pv.run("ls /sys/block") == ""
    xenvbd.nothing_left(domid, image)


def test_xl_is_told_why_a_target_cannot_be_served(pv: Guest, xenvbd: Xenvbd) -> None:
    """libxl does not wait for a qdisk: the reason is in the area, and in `xenvbd explain`."""
    domid = pv.domid
    xenvbd.dom0("xl block-attach pv vdev=xvdb,backendtype=qdisk,format=raw,target=/srv/missing.img", check=False)
    area = f"/local/domain/0/backend/qdisk/{domid}/51728"
    wait("a reason", lambda: "missing.img" in xenvbd.dom0(f"xenstore-read {area}/hotplug-error", check=False), 30)
    assert "missing.img" in xenvbd.dom0("xenvbd explain pv:xvdb", check=False)
    xenvbd.dom0("xl block-detach pv xvdb")
    xenvbd.nothing_left(domid)


def test_a_target_that_hangs_is_given_up_before_libxl_would_and_others_are_served(pv: Guest, xenvbd: Xenvbd) -> None:
    """libxl gives a backend ten seconds; the daemon takes eight, and tells."""
    image, domid = xenvbd.image("web", "8M"), pv.domid
    xenvbd.dom0(f"mkdir /srv/dead; modprobe autofs4; cat >/root/hanging <<'END'\n{HANGING}END\n"
                "setsid python3 /root/hanging >/dev/null 2>&1 & until mountpoint -q /srv/dead; do sleep 0.2; done")
    xenvbd.dom0("xl block-attach pv vdev=xvdb,backendtype=qdisk,format=raw,target=/srv/dead/a.img", check=False)
    area = f"/local/domain/0/backend/qdisk/{domid}/51728"
    xenvbd.attach(pv, image, "xvdc")
    wait("a reason", lambda: "/srv/dead/a.img: no answer in 8 s" in xenvbd.dom0(
        f"xenstore-read {area}/hotplug-error", check=False), 30)
    assert "no answer in 8 s" in xenvbd.dom0("xenvbd explain pv:xvdb", check=False)
    said = xenvbd.dom0("xenvbd attach pv /srv/dead/b.img xvdd; echo status $?", 60)
    assert "no answer in 8 s" in said and said.endswith(f"status {TIMED_OUT}"), said
    xenvbd.dom0("xl block-detach pv xvdb")
    xenvbd.detach(pv, "xvdc")
    xenvbd.nothing_left(domid, image)


@pytest.mark.short
def test_an_image_in_use_and_a_vdev_in_use_are_refused_by_name(pv: Guest, xenvbd: Xenvbd) -> None:
    image, other, domid = xenvbd.image("web", "8M"), xenvbd.image("other", "8M"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    output = xenvbd.dom0(f"xenvbd attach pv {image} xvdc; echo status $?", 90)
    assert image in output and "lock" in output and "status 7" in output
    output = xenvbd.dom0(f"xenvbd attach pv {other} xvdb; echo status $?", 90)
    assert "xvdb" in output and "status 0" not in output
    assert pv.run("ls /sys/block") == "xvdb"
    pv.run("dd if=/dev/xvdb of=/dev/null bs=1M 2>/dev/null")
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image, other)

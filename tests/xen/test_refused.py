"""What cannot be served is refused at attach, with a reason that an admin can act on, and nothing stays behind."""
from __future__ import annotations

import pytest

from tests.xen.guest import Guest
from tests.xen.line import wait
from tests.xen.xenvbd import Xenvbd

FAILED, PROPERTY, NOT_ALLOWED = 1, 2, 7


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

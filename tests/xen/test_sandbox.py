"""The workers' sandbox where its devices are real: what a worker holds, and what it cannot get."""
from __future__ import annotations

import json

import pytest

from tests.xen import workload
from tests.xen.guest import Guest
from tests.xen.xenvbd import Xenvbd

# As a worker's start goes: a handle for domain 7 is given, and the rest is given up.  What each attempt came to.
INSIDE = """
import json, os
from xenvbd import hv, sandbox
from xenvbd.hv import evtchn, grant
machine = hv.open("xen", 0)
given, = evtchn.offer(machine, 7, 1)
confinement = sandbox.lock_down(hv.places("xen"))
channels = evtchn.EventChannels(machine, given)
found = {"missing": confinement.missing, "on": confinement.on}
for what, attempt in {
        "another domain": lambda: channels.bind_interdomain(8, 1),
        "its domain": lambda: channels.bind_interdomain(7, 1),
        "a port for anybody": lambda: channels.bind_unbound(8), "free again": lambda: channels.restrict_domid(8),
        "another handle": lambda: evtchn.EventChannels(machine), "grants": lambda: grant.GrantTable(machine).close(),
        "the device": lambda: os.open("/dev/xen/evtchn", os.O_RDWR),
        "hypercalls": lambda: os.open("/dev/xen/privcmd", os.O_RDWR),
        "xenstore": lambda: os.open("/dev/xen/xenbus", os.O_RDWR)}.items():
    try:
        attempt()
        found[what] = ""
    except OSError as exc:
        found[what] = os.strerror(exc.errno)
print(json.dumps(found))
"""


@pytest.mark.short
def test_a_worker_has_its_own_guest_s_event_channels_and_can_get_no_others(pv: Guest, xenvbd: Xenvbd) -> None:
    image, domid = xenvbd.image("web"), pv.domid
    xenvbd.attach(pv, image, "xvdb")
    [worker] = xenvbd.workers()
    assert xenvbd.dom0(f"ps -o user= -p {worker}") == "xenvbd"
    assert xenvbd.dom0(f"ls -l /proc/{worker}/fd | grep -c /dev/xen/evtchn") == "1"
    assert xenvbd.dom0("stat -c %G:%a /dev/xen/evtchn") == "root:600"
    limit = f"awk '/Max data size/ {{print $4}}' /proc/{worker}/limits"
    before = int(xenvbd.dom0(limit))
    xenvbd.attach(pv, xenvbd.image("second"), "xvdc")
    assert xenvbd.workers() == [worker] and before < int(xenvbd.dom0(limit)) < 1 << 30
    xenvbd.detach(pv, "xvdc")

    xenvbd.dom0(f"cat >/root/inside.py <<'END'\n{INSIDE}END")
    found = json.loads(xenvbd.dom0("python3 -P /root/inside.py"))
    assert {"user xenvbd", "seccomp", "no capabilities"} <= set(found["on"]) and found["missing"] == [], found
    denied = {"another domain", "another handle", "the device", "hypercalls", "xenstore"}
    assert all(found[what] == "Permission denied" for what in denied), found
    assert found["free again"] == found["a port for anybody"] == "Operation not permitted", found
    # Domain 7 is not there, and that is what Xen says: the request went through to it.
    assert found["its domain"] == "No such process" and found["grants"] == "", found

    assert pv.run(workload.written("/dev/xvdb", 1)).split()[0] == xenvbd.checksum(image)
    xenvbd.detach(pv, "xvdb")
    xenvbd.nothing_left(domid, image)

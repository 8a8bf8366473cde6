"""A guest whose driver begins anew while nobody looks, as processes.  With the same numbers: tests/dataplane."""
import os
import signal

import pytest

from tests.support.host import wait
from xenvbd.process import is_zombie

DEVID = 51712
LOAD = ("--rw", "randrw", "--bs", 4096, "--iodepth", 16, "--verify")
PERSONAS = ("linux", "windows", "freebsd", "minios", "uboot", "ovmf", "grub")


def kill_all(host, guest):
    """Guest, worker and manager, with requests in flight."""
    worker = wait(lambda: host.worker(1), "there is a worker")
    guest.process.kill()
    os.kill(worker, signal.SIGKILL)
    host.manager.kill()
    host.manager.wait(30)
    guest.process.wait(30)
    wait(lambda: not os.path.exists(f"/proc/{worker}") or is_zombie(worker), "the worker has ended")


@pytest.mark.parametrize("persona", PERSONAS)
def test_nothing_of_the_ring_before_is_done_again_for_a_guest_that_began_anew(host, persona):
    host.attach(1, host.image(), wait=False)
    first = host.guest(1, DEVID, *LOAD, "--seconds", "60s").connected()
    wait(lambda: host.client.call("show", disk="1:xvda")["stats"]["write"]["ops"] > 50, "it writes")
    kill_all(host, first)
    (host.path / "a.img").write_bytes(bytes(4 << 20))       # whatever is done again is seen by whoever expects zeros
    second = host.guest(1, DEVID, *LOAD, "--persona", persona, "--count", 2000)
    wait(lambda: second.events("state"), "it has begun")
    host.start_manager(PAUSE_SECONDS="0")
    result = second.finish()
    assert result["errors"] == result["mismatches"] == 0 and result["ops"] >= 2000

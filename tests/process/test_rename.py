"""Guests that are renamed while their disks are served: what is asked of a name is done to who has it now."""
import os
import threading
import time

import pytest

from tests.process.test_host import attach_two, load, progresses, stop
from tests.support.host import wait
from xenvbd.errors import NoSuchDisk, PropertyError
from xenvbd.store import Store


@pytest.fixture
def names(host):
    """Give a domain a name, as `xl rename` does."""
    with Store(f"{host.directory}/store.0") as store:
        yield lambda domid, name: store.write(f"/local/domain/{domid}/name", name)


def listed(host):
    return {disk["domid"]: disk["disk"] for disk in host.client.call("list")["disks"]}


def test_a_forced_detach_takes_the_disk_of_the_guest_that_has_the_name_now(host, names):
    first, _ = attach_two(host)
    names(1, "old")
    names(2, "domain1")
    assert listed(host) == {1: "old:xvda", 2: "domain1:xvda"}
    host.client.call("detach", disk="domain1:xvda", force=True)
    assert listed(host) == {1: "old:xvda"} and progresses(host, 1)
    stop(first)


def test_a_later_manager_knows_guests_by_their_present_names(host, names):
    guests = attach_two(host)
    host.manager.kill()
    host.manager.wait()
    for domid, name in ((1, "swap"), (2, "domain1"), (1, "domain2")):
        names(domid, name)
    host.start_manager()
    assert listed(host) == {1: "domain2:xvda", 2: "domain1:xvda"}
    assert host.client.call("show", disk="domain1:xvda")["domid"] == 2
    for guest in guests:
        stop(guest)


def test_two_guests_of_one_name_are_told_apart_by_number_only(host, names):
    guests = attach_two(host)
    names(2, "domain1")
    with pytest.raises(PropertyError, match="domains 1 and 2"):
        host.client.call("detach", disk="domain1:xvda", force=True)
    assert len(listed(host)) == 2
    for guest in guests:
        stop(guest)


def test_a_guest_whose_name_is_no_text_is_served_like_any_other(host, names):
    names(1, b"k\xf6ln\n\x1b[2J")
    name = os.fsdecode(b"k\xf6ln\n\x1b[2J")
    assert host.client.call("attach", domain=name, target="mem:1M", vdev="xvda", wait=False)["domid"] == 1
    guest = load(host, 1, "--seconds", "60s")
    assert host.client.call("show", disk=f"{name}:xvda")["domain"] == "k\ufffdln\n\x1b[2J"
    host.client.call("detach", disk=f"{name}:xvda", force=True)
    guest.kill()
    assert listed(host) == {}


def test_renames_without_end_do_not_hold_up_guests_or_requests(host, names):
    guests = attach_two(host)
    over = threading.Event()

    def rename():
        number = 0
        while not over.wait(0.005):
            number += 1
            names(1, f"name{number}")

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert listed(host)[2] == "domain2:xvda" and host.client.call("show", disk="1:xvda")["domid"] == 1
        assert progresses(host, 1) and progresses(host, 2)
        with pytest.raises(NoSuchDisk):
            host.client.call("show", disk="domain1:xvda")
    finally:
        over.set()
        thread.join()
    names(1, "last")
    wait(lambda: listed(host)[1] == "last:xvda", "the last name is shown")
    assert host.text().count("is named") < 40
    for guest in guests:
        stop(guest)

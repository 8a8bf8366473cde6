"""A guest is a domid and its handle: names are looked up when they are used, and no disk is found by an old one."""
import logging
from dataclasses import replace

import pytest

from tests import test_backend
from tests.support.manager import bench
from tests.test_backend import asked, backend, restart, serving, toolstack
from tests.test_verbs import call
from xenvbd.config import Config, DiskOptions, DiskRule
from xenvbd.errors import ClaimError, NoSuchDisk, PropertyError
from xenvbd.explain import explain
from xenvbd.names import Names
from xenvbd.store import Store
from xenvbd.verbs import Verbs

rename_of = "/local/domain/{}/name"


@pytest.fixture
def b(tmp_path):
    """A manager with two guests, web1 (5) and web2 (7), each with a disk xvda."""
    with bench(domids=(0, 5, 7)) as made:
        made.image = tmp_path / "a.img"
        made.image.write_bytes(bytes(1 << 20))
        rename(made, 5, "web1")
        rename(made, 7, "web2")
        backend(made)
        made.verbs = Verbs(made.backend, lambda: None)
        for domid in (5, 7):
            device = made.backend.create(asked(domid=domid))
            made.until(lambda device=device: device.published)
        yield made
        made.backend.close()


def rename(b, domid, name):
    """As `xl rename` does, behind the manager's back: nothing is delivered yet."""
    b.toolstack.write(rename_of.format(domid), name)


def found(b, text):
    return b.backend.find(text).domid


def test_a_name_that_was_given_to_another_guest_means_that_guest(b):
    rename(b, 5, "old")
    rename(b, 7, "web1")
    assert found(b, "web1:xvda") == 7 and found(b, "old:xvda") == 5
    call(b, "detach", disk="web1:xvda", force=True)
    b.until(lambda: [device.domid for device in b.backend.devices.values()] == [5])


def test_guests_that_swap_their_names_are_told_apart(b):
    rename(b, 5, "tmp")
    rename(b, 7, "web1")
    rename(b, 5, "web2")
    assert found(b, "web1:xvda") == 7 and found(b, "web2:xvda") == 5
    assert [disk["disk"] for disk in call(b, "list")["disks"]] == ["web2:xvda", "web1:xvda"]


def test_a_name_given_to_a_guest_without_a_disk_finds_none(b):
    b.sim.add_domain(9, "web1")
    rename(b, 5, "other")
    with pytest.raises(NoSuchDisk, match="'web1:xvda'"):
        found(b, "web1:xvda")


@pytest.mark.parametrize("verb", ["show", "detach", "explain", "resume"])
def test_a_name_that_two_guests_have_is_refused_with_both_numbers(b, verb):
    rename(b, 7, "web1")
    with pytest.raises(PropertyError, match="5 and 7"):
        call(b, verb, disk="web1:xvda")
    assert found(b, "5:xvda") == 5 and found(b, "7:xvda") == 7


def test_a_name_that_a_guest_without_a_disk_has_too_is_refused(b):
    b.sim.add_domain(9, "web1")
    with pytest.raises(PropertyError, match="5 and 9"):
        found(b, "web1:xvda")
    with pytest.raises(PropertyError, match="5 and 9"):
        call(b, "list", domain="web1")


@pytest.mark.parametrize("name", ["9", "", "a:b"])
def test_a_name_that_means_something_else_leaves_the_number(b, name):
    rename(b, 5, name)
    assert found(b, "5:xvda") == 5 and call(b, "show", disk="5:xvda")["disk"] == "5:xvda"
    with pytest.raises(NoSuchDisk):
        found(b, f"{name}:xvda")


def test_what_is_shown_follows_a_rename_at_once(b):
    rename(b, 5, "db")
    assert [disk["disk"] for disk in call(b, "list")["disks"]] == ["db:xvda", "web2:xvda"]
    assert call(b, "show", disk="5:xvda")["domain"] == "db"
    assert explain(b.backend, "db:xvda")["disk"] == "db:xvda"
    with pytest.raises(ClaimError, match="db:xvda"):
        b.backend.create(asked(domid=5))


def test_a_rename_while_a_disk_is_detached_changes_nothing_of_that(b):
    replies = []
    b.verbs.dispatch("detach", {"disk": "web1:xvda", "force": True}, replies.append)
    rename(b, 5, "db")
    rename(b, 7, "web1")
    b.until(lambda: replies)
    assert replies[0]["disk"] in ("web1:xvda", "db:xvda") and found(b, "web1:xvda") == 7


@pytest.mark.parametrize("name", [b"k\xf6ln", "köln".encode(), b"a\nb", b"\x1b[31m", "a\u202eb".encode()], ids=repr)
def test_a_disk_is_found_by_a_name_of_any_bytes(b, name):
    rename(b, 5, name)
    assert found(b, f"{name.decode(errors='surrogateescape')}:xvda") == 5


def test_names_whose_bytes_are_shown_alike_are_two(b):
    rename(b, 5, b"\xe9")
    rename(b, 7, b"\xe8")
    assert found(b, "\udce9:xvda") == 5 and found(b, "\udce8:xvda") == 7


def test_a_guest_that_is_gone_keeps_its_last_name_until_its_disks_are_gone(b):
    device = b.backend.find("web1:xvda")
    device.domain_gone = lambda: None                               # its storage hangs
    b.sim.remove_domain(5)
    b.settle()
    assert device.name == "web1:xvda" and b.backend.find("web1:xvda") is device
    rename(b, 7, "web1")
    assert found(b, "web1:xvda") == 7


def test_the_next_guest_of_a_number_does_not_give_its_name_to_the_one_before(b):
    device = b.backend.find("web1:xvda")
    device.domain_gone = lambda: None
    b.sim.remove_domain(5)
    b.sim.add_domain(5, "another")
    b.settle()
    assert device.name == "web1:xvda"
    with pytest.raises(NoSuchDisk):
        found(b, "another:xvda")


def born_again(b):
    """Another domain 7 of the same VM, before the manager has looked."""
    vm = b.toolstack.get("/local/domain/7/vm")
    b.sim.remove_domain(7)
    b.sim.add_domain(7, "web2")
    b.toolstack.write("/local/domain/7/vm", vm)


def test_a_disk_of_ours_is_not_the_next_domain_s_of_the_same_number_and_vm(b):
    device = b.backend.find("web2:xvda")
    b.toolstack.rm(test_backend.BACKEND)                            # libxl's copy had it
    born_again(b)
    b.until(lambda: device.gone)
    assert call(b, "list", domain="web2") == {"disks": []}


def test_a_toolstack_s_disk_is_made_anew_for_the_next_domain_of_the_same_number_and_vm(b):
    area = f"{test_backend.BACKEND[:-5]}51728"
    toolstack(b, devid=51728)
    b.until(lambda: b.toolstack.get(f"{area}/state") == b"2")
    device = b.backend.find("web2:xvdb")
    b.toolstack.rm(area)
    born_again(b)
    toolstack(b, devid=51728)
    b.until(lambda: device.gone and b.toolstack.get(f"{area}/state") == b"2")
    assert b.backend.find("web2:xvdb") is not device


def test_two_guests_that_are_gone_and_had_one_name_are_told_by_number(b):
    for device in b.backend.devices.values():
        device.domain_gone = lambda: None
    rename(b, 7, "web1")
    b.settle()
    for domid in (5, 7):
        b.sim.remove_domain(domid)
    b.settle()
    with pytest.raises(PropertyError, match="5 and 7, which are gone"):
        found(b, "web1:xvda")


def test_a_later_manager_believes_no_name_of_a_record(b):
    keys = [device.key for device in b.backend.devices.values()]
    rename(b, 5, "tmp")
    rename(b, 7, "web1")
    rename(b, 5, "web2")
    restart(b, *(serving(b, keys[1]),))
    b.until(lambda: len(b.backend.devices) == 2)
    assert found(b, "web1:xvda") == 7 and found(b, "web2:xvda") == 5
    assert {device.name for device in b.backend.devices.values()} == {"web1:xvda", "web2:xvda"}


def rules(b, *match, **options):
    """A configuration with these options for the disks that match."""
    config = Config(disks=tuple(DiskRule(each, tuple(options.items())) for each in match))
    b.backend.host.options = lambda *names: config.options_of(*names)


def test_the_configuration_s_match_follows_a_rename(b):
    rules(b, "db:*", stall_alarm=7.0)
    device = b.backend.find("web1:xvda")
    assert device.stalls.alarm == DiskOptions().stall_alarm
    rename(b, 5, "db")
    b.until(lambda: device.stalls.alarm == 7.0)
    rename(b, 5, "web1")
    b.until(lambda: device.stalls.alarm == DiskOptions().stall_alarm)


@pytest.mark.parametrize("name", ["db", "db--incoming"])
def test_the_configuration_s_match_is_of_the_name_when_the_disk_is_published(b, name):
    rules(b, "db:*", queues=4)
    rename(b, 7, name)
    toolstack(b, devid=51728)
    b.until(lambda: b.toolstack.get(f"{test_backend.BACKEND[:-5]}51728/multi-queue-max-queues") == b"4")


def test_an_incoming_guest_is_named_as_it_is_once_it_has_arrived(b):
    rename(b, 7, "web1--incoming")
    assert found(b, "web1:xvda") == 5 and found(b, "web1--incoming:xvda") == 7
    rename(b, 5, "web1--migratedaway")
    rename(b, 7, "web1")
    assert found(b, "web1:xvda") == 7 and found(b, "web1--migratedaway:xvda") == 5


def test_a_rename_is_logged_by_number_and_not_without_end(b, caplog):
    caplog.set_level(logging.INFO)
    rename(b, 5, "db")
    b.until(lambda: "domain 5 is named db now, it was web1" in caplog.text)
    for number in range(200):
        rename(b, 5, f"name{number}")
        b.loop.run_once(0)
    b.until(lambda: b.backend.devices["qdisk", 5, 51712].name == "name199:xvda")
    assert caplog.text.count("is named") <= 12


def test_the_store_is_asked_as_little_for_many_disks_as_for_one(b, monkeypatch):
    for number in range(20):
        b.backend.create(replace(asked(f"xvd{chr(ord('c') + number)}"), domid=7))
    b.until(lambda: all(device.published for device in b.backend.devices.values()))
    asks = []
    request = b.store._request
    monkeypatch.setattr(b.store, "_request", lambda *args, **how: (asks.append(args), request(*args, **how))[1])
    assert len(call(b, "list")["disks"]) == 22 and len(asks) == 1


def test_a_name_that_may_not_be_read_is_the_number_and_takes_no_watch(b):
    with Store(b.sim.path(5)) as store:
        names = Names(store, lambda domid: None)
        names.follow(7, "")
        assert names.of(7, "") == "7" and not store._watches


def test_what_is_forgotten_is_watched_no_more(b):
    before = len(b.store._watches)
    call(b, "detach", disk="web1:xvda", force=True)
    b.until(lambda: len(b.backend.devices) == 1)
    assert len(b.store._watches) == before - 2                      # its state, its domain's name
    rename(b, 5, "db")
    b.settle()


def test_a_store_that_is_away_finds_a_disk_by_number_only(b):
    b.sim.drop_connections(0)
    b.until(lambda: not b.store.connected)
    assert found(b, "5:xvda") == 5
    with pytest.raises(OSError, match="connect"):
        found(b, "web1:xvda")
    assert call(b, "list")["disks"][0]["disk"] == "web1:xvda"
    rename_again(b)
    b.until(lambda: b.backend.find("5:xvda").name == "db:xvda")


def rename_again(b):
    b.toolstack.reconnect()
    rename(b, 5, "db")
    b.store.reconnect()
    b.backend.store_returned()

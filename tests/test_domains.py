"""Domains by name and number, and that a number's next owner is not taken for the one before."""
import errno
import os

import pytest

from tests.support.manager import bench
from xenvbd import domains
from xenvbd.errors import NoSuchDisk, PropertyError
from xenvbd.store import Store


@pytest.fixture
def b():
    with bench(domids=(0, 5, 7)) as made:
        yield made


def test_a_domain_is_found_by_name_and_by_number(b):
    assert domains.find(b.store, "7") == domains.find(b.store, "domain7") == 7


@pytest.mark.parametrize("text", ["8", "web1", "", "-1", "7 ", "domain", "123456", "9" * 5000])
def test_there_is_no_other(b, text):
    with pytest.raises(NoSuchDisk) as caught:
        domains.find(b.store, text)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("name", ["12", "", "a:b", "\uff17", "a\0b"])
def test_a_name_that_could_mean_something_else_is_not_used(b, name):
    b.store.write("/local/domain/7/name", name)
    assert domains.name(b.store, 7) == "7"


@pytest.mark.parametrize("name", [b"k\xc3\xb6ln", b"k\xf6ln", b"a\nb", b"\x1b[31m", "a\u202eb".encode(), b"two words"],
                         ids=repr)
def test_a_name_of_any_other_bytes_is_one(b, name):
    b.store.write("/local/domain/7/name", name)
    assert domains.name(b.store, 7) == os.fsdecode(name) and domains.find(b.store, os.fsdecode(name)) == 7


def test_names_that_look_equal_are_two(b):
    b.store.write("/local/domain/5/name", "web")
    b.store.write("/local/domain/7/name", "w\u0435b")            # a Cyrillic letter
    assert [domains.find(b.store, name) for name in ("web", "w\u0435b")] == [5, 7]


def test_a_name_that_two_domains_have_is_refused_with_both_numbers(b):
    b.store.write("/local/domain/5/name", "domain7")
    with pytest.raises(PropertyError, match="domains 5 and 7 are all named 'domain7'"):
        domains.find(b.store, "domain7")
    assert domains.find(b.store, "5") == 5


def test_a_number_is_never_a_name(b):
    b.store.write("/local/domain/5/name", "7")
    assert domains.find(b.store, "7") == 7 and domains.name(b.store, 5) == "5"


@pytest.mark.parametrize("name", ["web1", "web1--incoming", "web1--migratedaway"])
def test_a_guest_that_migrates_goes_by_its_own_name_too(name):
    assert "web1:xvda" in domains.disk_names(name, 7, 51712) and "7:51712" in domains.disk_names(name, 7, 51712)


def test_two_vms_whose_paths_are_not_utf_8_are_two(b):
    b.store.write("/local/domain/5/vm", b"/vm/\xe9")
    b.store.write("/local/domain/7/vm", b"/vm/\xe8")
    assert domains.identity(b.store, 5) != domains.identity(b.store, 7)


def test_a_domain_s_identity_ends_with_it(b):
    before = domains.identity(b.store, 7)
    b.sim.remove_domain(7)
    assert domains.identity(b.store, 7) is None
    b.sim.add_domain(7)
    assert domains.identity(b.store, 7) not in (before, None)


def test_a_disk_is_named_by_its_domain_and_vdev(b):
    assert domains.disk_name("web1", 51712) == "web1:xvda" and domains.disk_name("web1", 7 << 28) == f"web1:{7 << 28}"


def test_what_a_driver_domain_may_not_read_it_does_without(b):
    with Store(b.sim.path(5)) as store:
        assert domains.name(store, 7) == "7" and domains.identity(store, 7) == "" and domains.find(store, "7") == 7

"""Domains by name and number, and that a number's next owner is not taken for the one before."""
import errno

import pytest

from tests.support.manager import bench
from xenvbd import domains
from xenvbd.errors import NoSuchDisk
from xenvbd.store import Store


@pytest.fixture
def b():
    with bench(domids=(0, 5, 7)) as made:
        yield made


def test_a_domain_is_found_by_name_and_by_number(b):
    assert domains.find(b.store, "7") == domains.find(b.store, "domain7") == 7


@pytest.mark.parametrize("text", ["8", "web1", "", "-1", "7 ", "domain"])
def test_there_is_no_other(b, text):
    with pytest.raises(NoSuchDisk) as caught:
        domains.find(b.store, text)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("name", ["12", "", "a:b", "tab\t", "\x1b[31m"])
def test_a_name_that_could_mean_something_else_is_not_used(b, name):
    b.store.write("/local/domain/7/name", name)
    assert domains.name(b.store, 7) == "7"


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

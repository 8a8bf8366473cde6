"""What guests may and may not do, against the simulated store and Debian's xenstored."""
import errno
from collections.abc import Callable

import pytest

from tests.preload.xenstored import VERSION, Xenstored
from tests.store.tools import refused, settled
from xenvbd.store import Store
from xenvbd.store_sim import SimStore

Connect = Callable[..., Store]
FRONTEND, BACKEND = "/local/domain/1/device/vbd/51712", "/local/domain/0/backend/vbd/1/51712"


@pytest.fixture
def vbd(dom0: Store) -> None:
    """A vbd's two areas, as libxl makes them."""
    dom0.mkdir(FRONTEND)
    dom0.set_perms(FRONTEND, ["n1", "r0"])
    dom0.mkdir(BACKEND)
    dom0.set_perms(BACKEND, ["n0", "r1"])
    dom0.write(f"{FRONTEND}/backend", BACKEND)
    dom0.write(f"{BACKEND}/state", b"1")


def test_a_guest_reads_what_it_may_read(guest: Store, vbd: None) -> None:
    assert guest.read("name") == b"domain1"
    assert guest.read(f"{BACKEND}/state") == b"1"
    assert guest.read("device/vbd/51712/backend").decode() == BACKEND
    assert "data" in guest.ls("/local/domain/1")


def test_a_guest_does_not_read_another(connect: Connect, vbd: None) -> None:
    other = connect(2)
    for path in (FRONTEND, f"{FRONTEND}/backend", f"{BACKEND}/state", "/local/domain/1/name"):
        with refused(errno.EACCES):
            other.read(path)
    with refused(errno.EACCES):
        other.ls("/local/domain/1")


def test_a_guest_may_not_even_know_what_exists(connect: Connect, vbd: None) -> None:
    other = connect(2)
    for path in ("/local/domain/1/nothing", f"{BACKEND}/nothing", "/nothing", "/nothing/at/all"):
        with refused(errno.EACCES):
            other.read(path)
    with refused(errno.ENOENT):
        connect(1).read(f"{BACKEND}/nothing")


def test_a_guest_writes_what_it_owns(guest: Store, dom0: Store, vbd: None) -> None:
    guest.write("device/vbd/51712/state", b"3")
    guest.write("data/deep/down", b"x")
    assert dom0.read(f"{FRONTEND}/state") == b"3"
    assert dom0.get_perms(f"{FRONTEND}/state") == ["n1", "r0"]
    assert dom0.get_perms("/local/domain/1/data/deep") == ["n1"]


@pytest.mark.parametrize("path", ["name", "new", "device/new", "device/vbd/5", f"{BACKEND}/state", "/new"])
def test_a_guest_writes_nothing_else(guest: Store, dom0: Store, vbd: None, path: str) -> None:
    before = dom0.get(path)
    for verb in (lambda: guest.write(path, b"x"), lambda: guest.mkdir(path), lambda: guest.rm(path),
                 lambda: guest.set_perms(path, ["n1", "b0"])):
        with refused(errno.EACCES):
            verb()
    assert dom0.get(path) == before


def test_a_guest_can_remove_its_frontend_area(guest: Store, dom0: Store, vbd: None) -> None:
    guest.write(f"{FRONTEND}/state", b"1")
    guest.rm(f"{FRONTEND}/state")
    assert dom0.ls(FRONTEND) == ["backend"]
    guest.rm(FRONTEND)      # it owns the node, and rm asks nobody else
    assert not dom0.exists(FRONTEND)


def test_what_dom0_writes_in_a_guests_directory_is_the_guests(guest: Store, dom0: Store) -> None:
    dom0.write("/local/domain/1/data/made", b"by dom0")
    assert dom0.get_perms("/local/domain/1/data/made") == ["n1"]
    guest.write("data/made", b"by me")


def test_a_guest_cannot_give_a_node_away(guest: Store) -> None:
    with refused(errno.EPERM):
        guest.set_perms("data", ["n0", "b1"])
    guest.set_perms("data", ["n1", "r2"])


def test_rights_for_one_domain_go_before_those_for_all(guest: Store, dom0: Store, connect: Connect) -> None:
    other = connect(2)
    dom0.write("/shared", b"x")
    dom0.set_perms("/shared", ["b0", "n1"])
    assert other.read("/shared") == b"x"
    other.write("/shared", b"y")
    with refused(errno.EACCES):
        guest.read("/shared")
    dom0.set_perms("/shared", ["n0", "w1", "r2"])
    guest.write("/shared", b"z")
    with refused(errno.EACCES):
        guest.read("/shared")
    assert other.read("/shared") == b"z"
    with refused(errno.EACCES):
        other.set_perms("/shared", ["n0", "b2"])


def test_a_guest_does_not_manage_domains(guest: Store) -> None:
    for verb in (lambda: guest.introduce(5), lambda: guest.release(2), lambda: guest.is_introduced(1)):
        with refused(errno.EACCES):
            verb()


def test_introduce_and_release_check_their_domain(dom0: Store) -> None:
    with refused(errno.EINVAL):
        dom0.introduce(5, port=0)
    with refused(errno.ENOENT):
        dom0.release(5)
    with refused(errno.EINVAL):
        dom0.release(0)


def test_a_guest_hears_only_of_what_it_can_read_or_list(guest: Store, dom0: Store, vbd: None) -> None:
    fired: list[str] = []
    guest.watch("/", fired.append)
    guest.watch("@releaseDomain", fired.append)
    settled(guest)
    fired.clear()
    for path in ("/secret", "/local/domain/2/data/x", f"{BACKEND}/state", f"{FRONTEND}/state",
                 "/local/domain/1/x"):
        dom0.write(path, b"")
    settled(guest)
    assert fired == [f"{BACKEND}/state", f"{FRONTEND}/state", "/local/domain/1/x"]


def test_a_guest_hears_of_losing_a_right(guest: Store, dom0: Store, vbd: None) -> None:
    fired: list[str] = []
    guest.watch(BACKEND, fired.append)
    settled(guest)
    dom0.set_perms(BACKEND, ["n0"])
    dom0.write(BACKEND, b"")
    settled(guest)
    assert fired == [BACKEND] * 2


def test_a_guest_hears_of_a_removal(guest: Store, dom0: Store, vbd: None) -> None:
    fired: list[str] = []
    guest.watch(f"{BACKEND}/state", fired.append)
    settled(guest)
    dom0.transaction(lambda tx: tx.rm(BACKEND))
    settled(guest)
    assert fired == [f"{BACKEND}/state"] * 2


def test_a_guest_is_told_of_domains_if_it_is_allowed_to(machine, guest: Store, dom0: Store) -> None:
    fired: list[str] = []
    guest.watch("@releaseDomain", fired.append)
    dom0.set_perms("@releaseDomain", ["n0", "r1"])
    settled(guest)
    machine.remove_domain(2)
    settled(guest)
    assert fired == ["@releaseDomain"] * 2


def test_a_released_domain_leaves_nothing_that_it_owned(machine, dom0: Store, vbd: None) -> None:
    dom0.write("/owned/by/one", b"")
    dom0.set_perms("/owned/by", ["n1"])
    dom0.release(1)
    assert dom0.ls("/owned") == []
    assert not dom0.exists(FRONTEND) and not dom0.exists("/local/domain/1/data")
    assert dom0.exists("/local/domain/1/name") and dom0.exists(BACKEND)


def test_a_new_domain_does_not_inherit_its_numbers_rights(machine, connect: Connect, dom0: Store) -> None:
    dom0.write("/shared", b"for the old one")
    dom0.set_perms("/shared", ["n0", "r2"])
    assert connect(2).read("/shared") == b"for the old one"
    machine.remove_domain(2)
    machine.add_domain(2, "another")
    new = connect(2)
    assert new.read("name") == b"another"
    with refused(errno.EACCES):
        new.read("/shared")


# Quotas.  A guest owns 11 nodes of those that a new domain gets for it.


def fill(store: Store, count: int) -> None:
    """Make count nodes in one transaction, none of them in a directory too big."""
    def make(tx) -> None:
        left = count
        for directory in range(count):
            if left:
                tx.mkdir(f"data/{directory:02}")
                left -= 1
            for name in range(min(left, 40)):
                tx.mkdir(f"data/{directory:02}/{name:02}")
            left -= min(left, 40)

    store.transaction(make)


def test_a_guest_owns_1000_nodes_and_999_after_a_transaction(guest: Store) -> None:
    with refused(errno.ENOSPC):
        fill(guest, 989)
    fill(guest, 988)
    guest.mkdir("feature/1000")
    with refused(errno.ENOSPC):
        guest.mkdir("feature/1001")
    guest.write("feature/1000", b"still writable")


def test_a_guests_node_is_smaller_than_2048_bytes_with_all_its_parts(
        machine: SimStore | Xenstored, guest: Store) -> None:
    # Since 4.18 it may have 2048, and 16 of them are the header.
    most = 2048 - 16 - 8 if isinstance(machine, Xenstored) and VERSION >= (4, 18) else 2047 - 24 - 8
    guest.write("data", b"x" * most)
    with refused(errno.ENOSPC):
        guest.write("data", b"x" * (most + 1))
    with refused(errno.ENOSPC):
        guest.mkdir("data/child")


def test_a_guest_has_129_watches(guest: Store) -> None:
    watches = [guest.watch("data", lambda path: None) for _ in range(129)]
    with refused(errno.E2BIG):
        guest.watch("data", print)
    watches[0].cancel()
    guest.watch("data", print)


def test_a_guest_has_11_transactions(guest: Store) -> None:
    def nest(depth: int) -> int:
        return guest.transaction(lambda tx: nest(depth + 1)) if depth < limit else depth

    limit = 11
    assert nest(0) == 11
    limit = 12
    with refused(errno.ENOSPC):
        nest(0)


def test_a_guest_sets_5_permissions(guest: Store) -> None:
    guest.set_perms("data", ["n1", "r0", "r2", "r3", "r4"])
    with refused(errno.ENOSPC):
        guest.set_perms("data", ["n1", "r0", "r2", "r3", "r4", "r5"])


def test_dom0_has_no_quota(dom0: Store) -> None:
    dom0.transaction(lambda tx: [tx.mkdir(f"/dir/{i}") for i in range(1100)])
    dom0.write("/big", b"x" * 4000)
    dom0.set_perms("/big", [f"n{domid}" for domid in range(20)])
    for _ in range(200):
        dom0.watch("/big", print)


def test_a_quota_failure_in_a_transaction_fails_the_whole(guest: Store) -> None:
    def change(tx) -> None:
        tx.write("data/a", b"")
        with refused(errno.ENOSPC):
            tx.write("data/b", b"x" * 3000)

    with refused(errno.ENOMEM):
        guest.transaction(change)
    assert not guest.exists("data/a")

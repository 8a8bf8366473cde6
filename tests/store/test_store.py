"""The xenstore session against the simulated store and Debian's xenstored: nodes, errors, odd things."""
import errno
import os
import resource
from collections.abc import Callable

import pytest

from tests.store.tools import refused, settled, wait_until
from xenvbd.errors import StoreError
from xenvbd.store import Store

Connect = Callable[..., Store]


def test_what_is_written_is_read_and_parents_are_made(dom0: Store) -> None:
    dom0.write("/a/b/c", b"value")
    assert dom0.read("/a/b/c") == b"value"
    assert dom0.read("/a/b") == b""


@pytest.mark.parametrize("value", [b"", b"\n", b"a\0", b"\0a\0\0", "größe".encode(), b"\xff\xfe",
                                   b"x" * 4000], ids=lambda value: repr(value[:8]))
def test_values_are_kept_byte_for_byte(dom0: Store, value: bytes) -> None:
    dom0.write("/value", value)
    assert dom0.read("/value") == value


def test_text_is_written_as_utf8(dom0: Store) -> None:
    dom0.write("/text", "größe")
    assert dom0.read("/text") == "größe".encode()


def test_a_missing_node_is_an_oserror_with_errno_and_path(dom0: Store) -> None:
    with pytest.raises(OSError) as info:
        dom0.read("/nowhere/at/all")
    assert isinstance(info.value, StoreError)
    assert (info.value.errno, info.value.path) == (errno.ENOENT, "/nowhere/at/all")
    assert str(info.value) == "/nowhere/at/all: No such file or directory"


def test_get_and_exists_take_a_missing_node_in_their_stride(dom0: Store) -> None:
    dom0.mkdir("/here")
    assert dom0.get("/nowhere") is None
    assert dom0.get("/nowhere", b"default") == b"default"
    assert (dom0.exists("/here"), dom0.exists("/nowhere")) == (True, False)


def test_get_does_not_hide_other_errors(guest: Store, dom0: Store) -> None:
    dom0.write("/secret", b"")
    with refused(errno.EACCES):
        guest.get("/secret")
    with refused(errno.EACCES):
        guest.exists("/secret")


def test_rm_takes_all_below_and_a_missing_node_is_no_error(dom0: Store) -> None:
    dom0.write("/a/b/c", b"")
    dom0.rm("/a/b")
    assert (dom0.ls("/a"), dom0.exists("/a/b/c")) == ([], False)
    dom0.rm("/a/b")
    dom0.rm("/no/such/parent")


def test_mkdir_leaves_a_node_that_exists_alone(dom0: Store) -> None:
    dom0.write("/a", b"kept")
    dom0.mkdir("/a")
    assert dom0.read("/a") == b"kept"


def test_ls_lists_children_in_the_order_they_were_made(dom0: Store) -> None:
    for name in ("zoo", "apple", "9"):
        dom0.mkdir(f"/dir/{name}")
    assert dom0.ls("/dir") == ["zoo", "apple", "9"]


@pytest.mark.parametrize("count", [0, 1, 409, 410, 900])
def test_a_directory_may_have_any_number_of_children(dom0: Store, count: int) -> None:
    names = [f"child-{i:03}" for i in range(count)]     # 409 fill a payload
    dom0.mkdir("/dir")
    dom0.transaction(lambda tx: [tx.mkdir(f"/dir/{name}") for name in names])
    assert dom0.ls("/dir") == names


def test_a_long_directory_reads_the_same_inside_a_transaction(dom0: Store) -> None:
    dom0.transaction(lambda tx: [tx.mkdir(f"/dir/child-{i:04}") for i in range(900)])
    assert dom0.transaction(lambda tx: len(tx.ls("/dir"))) == 900


def test_a_long_directory_that_changes_meanwhile_is_read_again(dom0: Store, connect: Connect,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    dom0.transaction(lambda tx: [tx.mkdir(f"/dir/child-{i:04}") for i in range(900)])
    other, read_part, parts = connect(), dom0._directory_part, []

    def disturbed(path: str, offset: int, tx: int) -> tuple[bytes, bytes, bool]:
        parts.append(offset)
        if len(parts) == 2:
            other.rm("/dir/child-0000")
        return read_part(path, offset, tx)

    monkeypatch.setattr(dom0, "_directory_part", disturbed)
    assert dom0.ls("/dir") == [f"child-{i:04}" for i in range(1, 900)]
    assert parts.count(0) == 2


def test_a_long_directory_that_never_rests_is_an_error(dom0: Store, connect: Connect,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    dom0.transaction(lambda tx: [tx.mkdir(f"/dir/child-{i:04}") for i in range(900)])
    other, read_part = connect(), dom0._directory_part

    def disturbed(path: str, offset: int, tx: int) -> tuple[bytes, bytes, bool]:
        other.write("/dir", os.urandom(4).hex())
        return read_part(path, offset, tx)

    monkeypatch.setattr(dom0, "_directory_part", disturbed)
    with refused(errno.EAGAIN):
        dom0.ls("/dir")


def test_permissions_name_the_owner_first(dom0: Store) -> None:
    dom0.write("/a", b"")
    assert dom0.get_perms("/a") == ["n0"]
    dom0.set_perms("/a", ["n1", "r0", "b2"])
    assert dom0.get_perms("/a") == ["n1", "r0", "b2"]


@pytest.mark.parametrize("perms", [[], [""], ["x1"], ["r"], ["r-1"], ["r1 "], ["r1\0w2"], ["r99999999"]],
                         ids=repr)
def test_permissions_that_are_none_are_refused_before_they_are_sent(dom0: Store, perms: list[str]) -> None:
    dom0.write("/a", b"")
    with refused(errno.EINVAL):
        dom0.set_perms("/a", perms)
    assert dom0.get_perms("/a") == ["n0"]


@pytest.mark.parametrize("path", ["", "/a/", "//a", "/a//b", "/a b", "/a\n", "/a\0", "/ä", "/a.b",
                                  "/" + "x" * 3072], ids=lambda path: repr(path[:8]))
def test_a_bad_path_is_refused_before_it_is_sent(dom0: Store, path: str) -> None:
    for verb in (dom0.read, dom0.ls, dom0.rm, dom0.mkdir, lambda path: dom0.write(path, b"")):
        with refused(errno.EINVAL):
            verb(path)


def test_a_payload_over_4096_bytes_is_refused_before_it_is_sent(dom0: Store) -> None:
    dom0.write("/a", b"x" * (4096 - len("/a\0")))
    with refused(errno.E2BIG):
        dom0.write("/a", b"x" * (4097 - len("/a\0")))
    assert len(dom0.read("/a")) == 4093


def test_request_ids_wrap_at_32_bits(dom0: Store) -> None:
    dom0.write("/a", b"value")
    dom0._session._next_request = 2**32 - 2
    assert [dom0.read("/a") for _ in range(4)] == [b"value"] * 4
    assert dom0._session._next_request == 2


def test_more_than_1024_descriptors_are_no_obstacle(connect: Connect) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), max(hard, 1400)))
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        store, fired = connect(), []
        assert store.fileno() > 1024
        store.watch("/a", fired.append)
        store.write("/a", b"")
        settled(store)
        assert fired == ["/a"] * len(fired) and fired
    finally:
        for fd in others:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_relative_path_begins_at_the_own_domain(dom0: Store, guest: Store) -> None:
    assert dom0.read("/local/domain/1/data") == guest.read("data") == b""
    guest.write("data/x", b"1")
    assert dom0.read("/local/domain/1/data/x") == b"1"
    assert dom0.read("name") == b"Domain-0"


def test_a_session_knows_its_domain(dom0: Store, guest: Store) -> None:
    assert (dom0.domid, guest.domid) == (0, 1)
    assert dom0.domain_path(5) == "/local/domain/5"
    assert [dom0.is_introduced(domid) for domid in (0, 1, 5)] == [True, True, False]


def test_a_store_without_a_domid_node_is_taken_for_dom0s(dom0: Store, connect: Connect) -> None:
    dom0.rm("/local/domain/0/domid")
    assert connect().domid == 0


def test_close_can_be_called_twice_and_leaves_no_descriptor(connect: Connect) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with connect() as store:
            store.watch("/a", print)
        store.close()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)     # the simulated store's are among them
    assert repr(store).startswith("Store('/dev/shm/")

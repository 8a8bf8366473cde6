"""Transactions of the xenstore session, against the simulated store and Debian's xenstored."""
import errno
from collections.abc import Callable

import pytest

from tests.store.tools import refused, settled
from xenvbd.store import Store, Transaction
from xenvbd.store.store import ATTEMPTS

Connect = Callable[..., Store]


def test_a_transaction_shows_nothing_until_it_commits(dom0: Store, connect: Connect) -> None:
    other = connect()

    def change(tx: Transaction) -> bytes:
        tx.write("/a", b"1")
        tx.mkdir("/b")
        assert other.get("/a") is None
        return tx.read("/a")

    assert dom0.transaction(change) == b"1"
    assert (other.read("/a"), other.exists("/b")) == (b"1", True)


def test_a_transaction_sees_its_own_changes(dom0: Store) -> None:
    def change(tx: Transaction) -> None:
        tx.write("/a/b", b"1")
        tx.set_perms("/a/b", ["n1", "r2"])
        assert (tx.ls("/a"), tx.get_perms("/a/b"), tx.exists("/a/b")) == (["b"], ["n1", "r2"], True)
        tx.rm("/a")
        assert (tx.exists("/a/b"), tx.get("/a", b"gone")) == (False, b"gone")

    dom0.transaction(change)
    assert not dom0.exists("/a")


def test_a_transaction_whose_function_raises_has_not_happened(dom0: Store) -> None:
    def change(tx: Transaction) -> None:
        tx.write("/a", b"1")
        raise KeyError("changed my mind")

    with pytest.raises(KeyError, match="changed my mind"):
        dom0.transaction(change)
    assert not dom0.exists("/a")


def test_the_error_inside_a_transaction_comes_out_and_aborts_it(dom0: Store) -> None:
    with refused(errno.ENOENT) as info:
        dom0.transaction(lambda tx: (tx.write("/a", b""), tx.read("/nowhere")))
    assert info.value.path == "/nowhere"
    assert not dom0.exists("/a")


def test_a_transaction_leaves_the_connection_and_its_watches_alone(dom0: Store) -> None:
    fired: list[str] = []
    dom0.watch("/a", fired.append)
    settled(dom0)
    dom0.transaction(lambda tx: tx.write("/a", b"1"))
    settled(dom0)
    assert dom0.connected and dom0.read("/a") == b"1"
    assert fired == ["/a", "/a"]


def test_a_conflict_runs_the_function_again_on_the_new_state(dom0: Store, connect: Connect) -> None:
    other, seen = connect(), []
    dom0.write("/count", b"1")

    def change(tx: Transaction) -> None:
        seen.append(tx.read("/count"))
        if len(seen) < 3:
            other.write("/count", b"%d" % (len(seen) + 10))
        tx.write("/count", seen[-1] + b"!")

    dom0.transaction(change)
    assert seen == [b"1", b"11", b"12"]
    assert dom0.read("/count") == b"12!"


def test_a_conflict_that_never_ends_is_raised_in_the_end(dom0: Store, connect: Connect) -> None:
    other, tries = connect(), []

    def change(tx: Transaction) -> None:
        tx.write("/count", b"")
        tries.append(other.write("/count", b""))

    with refused(errno.EAGAIN):
        dom0.transaction(change)
    assert len(tries) == ATTEMPTS


def test_a_transaction_cannot_be_used_after_its_end(dom0: Store) -> None:
    kept: list[Transaction] = []
    dom0.transaction(kept.append)
    with refused(errno.EINVAL):
        kept[0].write("/a", b"")
    assert not dom0.exists("/a")


def test_transactions_may_interleave_on_one_connection(dom0: Store) -> None:
    def outer(tx: Transaction) -> None:
        tx.write("/outer", b"1")
        dom0.transaction(lambda inner: inner.write("/other/inner", b"2"))

    dom0.mkdir("/other")
    dom0.transaction(outer)
    assert (dom0.read("/outer"), dom0.read("/other/inner")) == (b"1", b"2")


# xenstored 4.17 lets a transaction fail if, and only if, a node that it has read has changed.
CONFLICTS = {
    "nothing touched by both": (lambda tx: tx.write("/a", b"1"), lambda s: s.write("/b", b"2"), False),
    "read, then written by the other": (lambda tx: tx.read("/a"), lambda s: s.write("/a", b"2"), True),
    "both write": (lambda tx: tx.write("/a", b"1"), lambda s: s.write("/a", b"2"), True),
    "both write the same value": (lambda tx: tx.write("/a", b"2"), lambda s: s.write("/a", b"2"), True),
    "children of one directory": (lambda tx: tx.write("/d/x", b"1"), lambda s: s.write("/d/y", b"2"), True),
    "values in one directory": (lambda tx: tx.write("/d/p", b"1"), lambda s: s.write("/d/q", b"2"), False),
    "a directory listed, a child's value": (lambda tx: tx.ls("/d"), lambda s: s.write("/d/q", b"2"), False),
    "a directory listed, a child more": (lambda tx: tx.ls("/d"), lambda s: s.write("/d/new", b""), True),
    "absent, then created": (lambda tx: tx.get("/new"), lambda s: s.write("/new", b""), True),
    "absent, then created beside": (lambda tx: tx.get("/d/new"), lambda s: s.write("/d/beside", b""), True),
    "removed by the other": (lambda tx: tx.get("/a"), lambda s: s.rm("/a"), True),
    "removed here, written there": (lambda tx: tx.rm("/d"), lambda s: s.write("/d/p", b"2"), True),
    "permissions changed": (lambda tx: tx.read("/a"), lambda s: s.set_perms("/a", ["n1"]), True),
    "only looked at by the other": (lambda tx: tx.write("/a", b"1"), lambda s: s.read("/a"), False),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_what_conflicts(dom0: Store, connect: Connect, case: str) -> None:
    inside, outside, conflict = CONFLICTS[case]
    other, tries = connect(), []
    for path in ("/a", "/b", "/d/p", "/d/q"):
        dom0.write(path, b"0")

    def change(tx: Transaction) -> None:
        inside(tx)
        if not tries:
            outside(other)
        tries.append(1)

    dom0.transaction(change)
    assert (len(tries) == 2) is conflict

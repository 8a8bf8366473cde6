"""Watches of the xenstore session, against the simulated store and Debian's xenstored."""
import contextlib
import errno
import select
from collections.abc import Callable

import pytest

from tests.store.tools import dispatch_until, refused, settled
from xenvbd.store import Store
from xenvbd.store_sim import domain

Connect = Callable[..., Store]


def test_a_watch_fires_once_at_the_start_even_for_nothing(dom0: Store) -> None:
    fired: list[str] = []
    dom0.watch("/not/there", fired.append)
    assert fired == []
    settled(dom0)
    assert fired == ["/not/there"]


def test_a_watch_tells_the_path_that_changed_below_it(dom0: Store, connect: Connect) -> None:
    fired, other = [], connect()
    dom0.watch("/a", fired.append)
    settled(dom0)
    for path in ("/a", "/a/b/c", "/ab", "/b"):
        other.write(path, b"")
    settled(dom0)
    assert fired == ["/a", "/a", "/a/b/c"]


def test_what_fires_and_what_does_not(dom0: Store, connect: Connect) -> None:
    fired, other = [], connect()
    dom0.write("/a/b", b"")
    dom0.watch("/a", fired.append)
    settled(dom0)
    other.read("/a/b")
    other.mkdir("/a/b")
    other.rm("/a/nothing")
    settled(dom0)
    assert fired == ["/a"]
    for change in (lambda: other.write("/a/b", b""), lambda: other.set_perms("/a/b", ["n1"]),
                   lambda: other.mkdir("/a/c"), lambda: other.rm("/a/b")):
        fired.clear()
        change()
        settled(dom0)
        assert len(fired) == 1


def test_removing_a_directory_fires_watches_below_it_with_their_own_path(dom0: Store) -> None:
    fired: list[tuple[str, str]] = []
    for path in ("/a", "/a/b", "/a/b/c", "/a/b/c/d"):
        dom0.write(path, b"")
    for path in ("/", "/a", "/a/b", "/a/b/c", "/a/b/c/nothing"):
        dom0.watch(path, lambda fire, path=path: fired.append((path, fire)))
    settled(dom0)
    fired.clear()
    dom0.rm("/a/b")
    settled(dom0)
    assert sorted(fired) == [("/", "/a/b"), ("/a", "/a/b"), ("/a/b", "/a/b"), ("/a/b/c", "/a/b/c")]


def test_a_transactions_changes_fire_when_it_commits_and_only_then(dom0: Store, connect: Connect) -> None:
    fired, other = [], connect()
    dom0.watch("/a", fired.append)
    settled(dom0)

    def change(tx) -> None:
        tx.write("/a/1", b"")
        tx.write("/a/2", b"")
        settled(dom0)
        assert fired == ["/a"]
        if abort:
            raise InterruptedError

    abort = True
    with contextlib.suppress(InterruptedError):
        other.transaction(change)
    abort = False
    other.transaction(change)
    settled(dom0)
    assert sorted(fired[1:]) == ["/a/1", "/a/2"]


def test_what_a_transaction_made_and_removed_fires_nothing(dom0: Store) -> None:
    fired: list[str] = []
    dom0.mkdir("/a")
    dom0.watch("/a", fired.append)
    settled(dom0)
    dom0.transaction(lambda tx: (tx.write("/a/b", b""), tx.rm("/a/b")))
    settled(dom0)
    assert fired == ["/a"]


def test_a_relative_watch_tells_relative_paths(dom0: Store, guest: Store) -> None:
    fired: list[str] = []
    guest.watch("data", fired.append)
    guest.watch("device/vbd", fired.append)
    settled(guest)
    dom0.write("/local/domain/1/data/x", b"")
    settled(guest)
    assert fired == ["data", "device/vbd", "data/x"]


def test_two_watches_on_one_path_get_each_event_once_each(dom0: Store) -> None:
    """Their tokens differ: with one token for both, each event would arrive twice at both."""
    first: list[str] = []
    second: list[str] = []
    dom0.watch("/a", first.append)
    watch = dom0.watch("/a", second.append)
    settled(dom0)
    dom0.write("/a", b"")
    settled(dom0)
    assert (first, second) == (["/a"] * 2, ["/a"] * 2)
    watch.cancel()
    dom0.write("/a", b"")
    settled(dom0)
    assert (len(first), len(second)) == (3, 2)


def test_an_event_of_a_cancelled_watch_is_dropped(dom0: Store) -> None:
    fired: list[str] = []
    watch = dom0.watch("/a", fired.append)
    dom0.write("/a/b", b"")
    watch.cancel()
    watch.cancel()
    for _ in range(100):
        assert dom0.dispatch() == 0
    assert fired == [] and not dom0._session.events
    assert repr(watch) == "Watch('/a')"


def test_a_watch_that_xenstored_has_forgotten_can_be_cancelled(dom0: Store) -> None:
    watch = dom0.watch("/a", print)
    dom0._request(21, b"\0")    # RESET_WATCHES
    watch.cancel()


def test_a_bad_path_cannot_be_watched(dom0: Store) -> None:
    for path in ("", "/a b", "@nonsense", "/a/"):
        with refused(errno.EINVAL):
            dom0.watch(path, print)
    assert not dom0._watches


def test_callbacks_may_use_the_store_and_its_watches(dom0: Store) -> None:
    fired: list[str] = []

    def second(path: str) -> None:
        fired.append(f"second {path}")

    def first(path: str) -> None:
        fired.append(f"first {path} {dom0.read('/value').decode()}")
        watch.cancel()
        dom0.watch("/b", second)
        dom0.write("/a", b"")

    dom0.write("/value", b"1")
    watch = dom0.watch("/a", first)
    settled(dom0)
    assert fired == ["first /a 1", "second /b"]


def test_one_dispatch_ends_though_its_callbacks_cause_events(dom0: Store) -> None:
    fired: list[str] = []

    def again(path: str) -> None:
        fired.append(path)
        dom0.write("/a", b"")

    dom0.watch("/a", again)
    for turn in range(1, 4):
        assert select.select([dom0.fileno()], [], [], 5)[0]
        assert dom0.dispatch() == 1
        assert len(fired) == turn


def test_events_queued_while_a_request_ran_make_the_descriptor_readable(dom0: Store) -> None:
    dom0.watch("/a", lambda path: None)
    settled(dom0)
    assert not select.select([dom0.fileno()], [], [], 0)[0]
    dom0.write("/a", b"")
    dom0.read("/a")
    assert dom0._session.events and select.select([dom0.fileno()], [], [], 0)[0]
    dom0.dispatch()
    assert not select.select([dom0.fileno()], [], [], 0)[0]


def test_a_callback_that_raises_leaves_the_events_behind_it(dom0: Store) -> None:
    fired: list[str] = []

    def fail(path: str) -> None:
        raise ZeroDivisionError

    dom0.watch("/a", fail)
    dom0.watch("/b", fired.append)
    dom0.read("/")
    with pytest.raises(ZeroDivisionError):
        dom0.dispatch()
    assert fired == []
    dispatch_until(lambda: fired == ["/b"], dom0)


def test_a_callback_may_close_the_store(dom0: Store) -> None:
    dom0.watch("/a", lambda path: dom0.close())
    dom0.watch("/b", print)
    dom0.read("/")
    assert dom0.dispatch() == 1
    assert not dom0.connected


def test_a_million_changes_of_one_node_are_kept_as_one_event(dom0: Store, connect: Connect) -> None:
    """A thousand, here: what counts is that they take no room (XSA-349)."""
    other = connect()
    dom0.watch("/a", lambda path: None)
    for _ in range(1000):
        other.write("/a/b", b"")
        dom0.read("/")
    assert len(dom0._session.events) == 2


def test_dispatch_does_not_wait(dom0: Store) -> None:
    assert [dom0.dispatch() for _ in range(10)] == [0] * 10


def test_domains_that_come_and_go_fire_the_special_watches(machine, dom0: Store) -> None:
    fired: list[str] = []
    dom0.watch("@introduceDomain", fired.append)
    dom0.watch("@releaseDomain", fired.append)
    settled(dom0)
    assert fired == ["@introduceDomain", "@releaseDomain"]
    machine.add_domain(7)
    dispatch_until(lambda: fired[2:] == ["@introduceDomain"], dom0)
    assert dom0.is_introduced(7)
    machine.remove_domain(7)
    dispatch_until(lambda: fired[3:] == ["@releaseDomain"], dom0)
    assert not dom0.is_introduced(7)
    assert "7" not in dom0.ls("/local/domain")


def test_a_domain_can_be_made_over_dom0s_connection(machine, dom0: Store, connect: Connect) -> None:
    if hasattr(machine, "rings"):
        machine.rings.add(9)
    domain.create(dom0, 9, "from-afar", pv=False)
    assert connect(9).read("name") == b"from-afar"
    domain.destroy(dom0, 9)
    domain.destroy(dom0, 9)
    assert dom0.ls("/local/domain") == ["0", "1", "2"]

"""The simulated store beyond xenstored's own rules: sockets, restart, SIGKILL, faults."""
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyxs._internal import Op

from tests.store.tools import dispatch_until, refused, settled, wait_until
from xenvbd.errors import StoreError
from xenvbd.store import Store, Transaction
from xenvbd.store.session import HEADER
from xenvbd.store_sim import SimStore, domain
from xenvbd.store_sim import journal as journal_module


@pytest.fixture
def sim(shm: Path) -> Iterator[SimStore]:
    with SimStore(shm, (0, 1)) as sim:
        yield sim


@pytest.fixture
def dom0(sim: SimStore) -> Iterator[Store]:
    with Store(sim.path()) as store:
        yield store


@pytest.fixture
def process(shm: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the store as a process, with domains 0 and 1."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "xenvbd.store_sim", str(shm), "--domains", "0,1"]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "ready\n"
        return processes[-1]

    yield start
    for each in processes:
        each.kill()
        each.communicate()


# Sockets and domains


def test_each_domain_has_a_socket_and_is_known_by_it(sim: SimStore, dom0: Store) -> None:
    with Store(sim.path(1)) as guest:
        assert (dom0.domid, guest.domid) == (0, 1)
        assert guest.read("name") == b"domain1"


def test_a_domains_socket_comes_and_goes_with_it(sim: SimStore, dom0: Store) -> None:
    sim.add_domain(5, "web", pv=False)
    guest = Store(sim.path(5))
    assert guest.read("name") == b"web" and dom0.read("/libxl/5/type") == b"hvm"
    sim.remove_domain(5)
    with refused(errno.ECONNRESET):
        guest.dispatch()
    with refused(errno.ENOENT):
        guest.reconnect()
    guest.close()
    assert dom0.ls("/libxl") == ["1"]


def test_introduce_makes_the_socket_before_it_is_answered(sim: SimStore, dom0: Store) -> None:
    domain.create(dom0, 6, "web")
    with Store(sim.path(6)) as guest:
        assert guest.domid == 6
    domain.destroy(dom0, 6)
    assert not Path(sim.path(6)).exists()


def test_a_guest_may_have_several_clients(sim: SimStore) -> None:
    with Store(sim.path(1)) as first, Store(sim.path(1)) as second:
        fired: list[str] = []
        first.watch("data", fired.append)
        second.write("data/x", b"1")
        dispatch_until(lambda: fired == ["data", "data/x"], first)


def test_a_guest_cannot_say_who_may_watch_domains(sim: SimStore, dom0: Store) -> None:
    with Store(sim.path(1)) as guest, refused(errno.EACCES):
        guest.set_perms("@releaseDomain", ["n1"])
    with refused(errno.EINVAL):
        dom0.set_perms("@nonsense", ["n1"])


def test_a_stub_domain_acts_for_its_guest(sim: SimStore, dom0: Store) -> None:
    sim.add_domain(2)
    with Store(sim.path(2)) as stub:
        with refused(errno.EACCES):
            stub.write("/local/domain/1/data", b"")
        dom0._request(Op.SET_TARGET, b"2\0001\0")
        stub.write("/local/domain/1/data", b"for it")


def test_a_domain_introduced_again_begins_anew(sim: SimStore, dom0: Store) -> None:
    with Store(sim.path(1)) as guest:
        fired: list[str] = []
        guest.watch("data", fired.append)
        settled(guest)
        dom0.introduce(1)
        dom0._request(Op.RESUME, b"1\0")
        dom0.write("/local/domain/1/data", b"")
        settled(guest)
        assert fired == ["data"]


# Protocol


@pytest.mark.parametrize("op", [15, 16, 20, 23, 99, 0xFFFF])
def test_an_unknown_operation_is_enosys(dom0: Store, op: int) -> None:
    with refused(errno.ENOSYS):
        dom0._request(op, b"")


@pytest.mark.parametrize(("op", "payload"), [
    (Op.READ, b""), (Op.READ, b"/"), (Op.READ, b"/\0/\0"), (Op.READ, b"/\0x"), (Op.WRITE, b"/a"),
    (Op.WATCH, b"/a\0"), (Op.WATCH, b"/a b\0t\0"), (Op.UNWATCH, b"/a\0"), (Op.SET_PERMS, b"/\0"),
    (Op.SET_PERMS, b"/\0x0\0"), (Op.TRANSACTION_END, b"X\0"), (Op.INTRODUCE, b"3\0000\0"),
    (Op.RELEASE, b"x\0"), (Op.RM, b"/\0"), (Op.DEBUG, b"nonsense\0"),
    (Op.DEBUG, b"fault\0drop\0x\0"), (22, b"/\0")], ids=repr)
def test_a_malformed_request_is_einval(dom0: Store, op: int, payload: bytes) -> None:
    with refused(errno.EINVAL):
        dom0._request(op, payload)


def test_requests_in_a_transaction_that_is_not_there_are_enoent(dom0: Store) -> None:
    for op, payload in ((Op.READ, b"/\0"), (Op.TRANSACTION_END, b"T\0")):
        with refused(errno.ENOENT):
            dom0._request(op, payload, 77)
    with refused(errno.ENOENT):
        dom0._request(Op.TRANSACTION_END, b"T\0")


def test_transactions_do_not_nest(dom0: Store) -> None:
    with refused(errno.EBUSY):
        dom0.transaction(lambda tx: dom0._request(Op.TRANSACTION_START, b"\0", tx.id))


def test_the_same_watch_twice_is_eexist(dom0: Store) -> None:
    dom0._request(Op.WATCH, b"/a\0token\0")
    with refused(errno.EEXIST):
        dom0._request(Op.WATCH, b"/a\0token\0")


def test_a_permission_for_a_domain_that_cannot_be_is_ignored_or_refused(dom0: Store) -> None:
    dom0.write("/a", b"")
    with refused(errno.ENOENT):
        dom0.set_perms("/a", ["n40000"])
    dom0.set_perms("/a", ["n0", "r40000"])
    assert dom0.get_perms("/a") == ["n0", "r40000"]


def test_a_client_that_sends_too_much_is_dropped(sim: SimStore) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sim.path(1))
        client.sendall(HEADER.pack(Op.WRITE, 0, 0, 4097))
        assert client.recv(1) == b""


def test_requests_in_pieces_and_in_heaps_are_answered(sim: SimStore) -> None:
    request = HEADER.pack(Op.GET_DOMAIN_PATH, 7, 0, 2) + b"1\0"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sim.path(1))
        for byte in request:
            client.sendall(bytes([byte]))
        client.sendall(request * 1000)
        wanted = 1001 * (HEADER.size + len("/local/domain/1\0"))
        assert len(client.recv(wanted, socket.MSG_WAITALL)) == wanted


def test_a_client_that_does_not_read_loses_nothing_and_stops_nobody(sim: SimStore, dom0: Store) -> None:
    count = 5000
    request = HEADER.pack(Op.READ, 7, 0, 5) + b"/big\0"
    dom0.write("/big", b"x" * 3000)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sim.path())
        client.sendall(request * count)
        assert len(dom0.read("/big")) == 3000
        wanted = count * (HEADER.size + 3000)
        assert len(client.recv(wanted, socket.MSG_WAITALL)) == wanted


def test_xens_own_tools_work_with_it(sim: SimStore) -> None:
    """libxenstore's clients, from xenstore-utils."""
    def run(*command: str) -> str:
        return subprocess.run(command, env={**os.environ, "XENSTORED_PATH": sim.path()}, capture_output=True,
                              text=True, check=True, timeout=20).stdout

    run("xenstore-write", *(word for i in range(500) for word in (f"/dir/child-{i:03}", str(i))))
    run("xenstore-chmod", "/dir/child-007", "n0", "r1")
    assert run("xenstore-list", "/dir").split() == [f"child-{i:03}" for i in range(500)]
    assert run("xenstore-read", "/dir/child-499") == "499\n"
    assert 'child-007 = "7"' in (listing := run("xenstore-ls", "-p", "/dir")) and "(n0,r1)" in listing
    assert run("xenstore-watch", "-n", "1", "/dir") == "/dir\n"


# Restart


def test_a_store_started_again_has_its_tree_back(shm: Path) -> None:
    with SimStore(shm, (0, 1)) as sim, Store(sim.path()) as dom0:
        dom0.write("/a/b", b"\xff\n\0")
        dom0.set_perms("/a/b", ["n1", "r0"])
        dom0.transaction(lambda tx: (tx.rm("/tool"), tx.write("/tool/x", b""), tx.write("/a/c", b"c")))
        dom0.set_perms("@releaseDomain", ["n0", "r1"])
        vm = dom0.read("/local/domain/1/vm")
    with SimStore(shm, (0, 1)) as sim, Store(sim.path()) as dom0:
        assert (dom0.read("/a/b"), dom0.get_perms("/a/b")) == (b"\xff\n\0", ["n1", "r0"])
        assert (dom0.ls("/a"), dom0.ls("/tool")) == (["b", "c"], ["x"])
        assert dom0.read("/local/domain/1/vm") == vm
        assert sim.daemon.special["@releaseDomain"][1].domid == 1


def test_quotas_and_rights_survive_a_restart(shm: Path) -> None:
    with SimStore(shm, (0, 1)) as sim, Store(sim.path()) as dom0:
        dom0.write("/old", b"")
        dom0.set_perms("/old", ["n0", "r1"])
        sim.remove_domain(1)
        sim.add_domain(1)
        entries = dict(sim.daemon.domains.entries)
    with SimStore(shm) as sim, Store(sim.path(1)) as guest:
        assert {domid: n for domid, n in sim.daemon.domains.entries.items() if n} == \
            {domid: n for domid, n in entries.items() if n}
        with refused(errno.EACCES):
            guest.read("/old")
        guest.write("data/x", b"")


def test_a_journal_cut_short_by_a_kill_is_as_before_its_last_request(shm: Path) -> None:
    with SimStore(shm) as sim, Store(sim.path()) as dom0:
        dom0.write("/a", b"1")
        dom0.write("/a", b"2")
    journal = shm / "store.journal"
    journal.write_bytes(journal.read_bytes()[:-5])
    with SimStore(shm) as sim, Store(sim.path()) as dom0:
        assert dom0.read("/a") == b"1"


def test_a_long_journal_is_made_shorter(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 20000)
    with SimStore(shm) as sim, Store(sim.path()) as dom0:
        for i in range(1000):
            dom0.write("/count", str(i))
        assert (shm / "store.journal").stat().st_size < 20000
    with SimStore(shm) as sim, Store(sim.path()) as dom0:
        assert dom0.read("/count") == b"999"
    assert len(json.loads((shm / "store.journal").read_bytes().splitlines()[0])) > 3


def test_without_its_journal_a_store_begins_empty(shm: Path) -> None:
    with SimStore(shm) as sim, Store(sim.path()) as dom0:
        dom0.write("/a", b"1")
    (shm / "store.journal").unlink()
    with SimStore(shm) as sim, Store(sim.path()) as dom0:
        assert dom0.ls("/") == ["tool", "local"]


def test_a_killed_process_started_again_is_reconnected_to_with_watches_and_tree(process, shm: Path) -> None:
    first, fired = process(), []
    with Store(str(shm / "store.0")) as dom0:
        dom0.write("/a", b"1")
        dom0.watch("/a", fired.append)
        settled(dom0)
        first.kill()
        first.wait()
        with refused(errno.ECONNRESET):
            dom0.dispatch()
        with refused(errno.ECONNREFUSED):
            dom0.reconnect()
        process()
        dom0.reconnect()
        assert dom0.read("/a") == b"1"
        dispatch_until(lambda: fired == ["/a", "/a"], dom0)


def test_no_acknowledged_write_is_lost_to_a_sigkill(process, shm: Path) -> None:
    written = -1

    def count(tx: Transaction) -> None:
        for path in ("/a", "/b"):
            tx.write(path, str(written + 1))

    for _ in range(3):
        running, end = process(), time.monotonic() + 0.05
        with Store(str(shm / "store.0")) as dom0, contextlib.suppress(OSError):
            while True:
                dom0.transaction(count)
                written += 1
                if time.monotonic() > end:
                    running.kill()
        process()
        with Store(str(shm / "store.0")) as dom0:
            assert dom0.read("/a") == dom0.read("/b")
            found = int(dom0.read("/a"))
        assert found in (written, written + 1)
        written = found


def test_a_process_asked_to_end_ends_and_takes_its_sockets_along(process, shm: Path) -> None:
    running = process()
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 0
    assert not list(shm.glob("store.?"))


# Faults


def test_a_dropped_connection_is_noticed_at_the_right_request(sim: SimStore, dom0: Store) -> None:
    sim.faults.drop_after = 2
    for _ in range(2):
        dom0.read("/")
    with refused(errno.ECONNRESET):
        dom0.read("/")
    dom0.reconnect()
    assert dom0.read("/") == b""


def test_a_fault_may_be_for_one_domain(sim: SimStore, dom0: Store) -> None:
    dom0._request(Op.DEBUG, b"fault\0drop\0000\0001\0")
    dom0.read("/")
    with Store(sim.path(1)) as guest, refused(errno.ECONNRESET):
        guest.read("name")


def test_a_request_may_be_refused_and_is_not_carried_out(sim: SimStore, dom0: Store) -> None:
    dom0._request(Op.DEBUG, b"fault\0refuse\0001\0ENOSPC\0000\0")
    dom0.write("/a", b"1")
    with refused(errno.ENOSPC):
        dom0.write("/a", b"2")
    assert dom0.read("/a") == b"1"


def test_a_refused_commit_is_the_end_of_its_transaction(sim: SimStore, dom0: Store) -> None:
    sim.faults.set(["refuse", "2", "EIO"])
    with refused(errno.EIO):
        dom0.transaction(lambda tx: tx.write("/a", b"1"))
    assert not dom0.exists("/a")


def test_a_store_that_refuses_a_watch_again_is_not_connected_to(sim: SimStore) -> None:
    """One that has lost a watch would never hear of anything."""
    with Store(sim.path()) as store:
        fired: list[str] = []
        store.watch("/a", fired.append)
        store.watch("/b", fired.append)
        sim.drop_connections()
        with pytest.raises(StoreError):
            store.read("/")
        sim.faults.set(["refuse", "1", "ENOSPC"])
        with refused(errno.ENOSPC):
            store.reconnect()
        assert not store.connected
        store.reconnect()
        del fired[:]
        dispatch_until(lambda: set(fired) == {"/a", "/b"}, store)


def test_a_watch_that_the_store_keeps_is_cancelled_all_the_same(sim: SimStore) -> None:
    with Store(sim.path()) as store:
        fired: list[str] = []
        watch = store.watch("/a", fired.append)
        dispatch_until(lambda: bool(fired), store)
        sim.faults.set(["refuse", "0", "EIO"])
        watch.cancel()
        store.write("/a", b"1")
        store.dispatch()
        assert fired == ["/a"]


def test_forced_conflicts_are_retried(sim: SimStore, dom0: Store) -> None:
    tries: list[int] = []
    dom0._request(Op.DEBUG, b"fault\0eagain\0003\0")
    dom0.transaction(lambda tx: tries.append(1))
    assert len(tries) == 4


def test_a_delayed_answer_is_late_and_delays_nobody_else(sim: SimStore, dom0: Store) -> None:
    for seconds in 0.2, 3600.0:
        with Store(sim.path()) as other, socket.socket(socket.AF_UNIX) as client:
            dom0._request(Op.DEBUG, b"fault\0delay\0%g\0001\0" % seconds)
            client.connect(sim.path())
            began = time.monotonic()
            client.sendall((HEADER.pack(Op.READ, 7, 0, 2) + b"/\0") * 2)
            wait_until(lambda: not sim.faults.delays)
            other.read("/")
            if seconds < 1:
                assert len(client.recv(2 * HEADER.size, socket.MSG_WAITALL)) == 2 * HEADER.size
                assert time.monotonic() - began >= seconds


def test_connections_can_be_dropped_at_any_time(sim: SimStore, dom0: Store) -> None:
    with Store(sim.path(1)) as guest:
        sim.drop_connections(0)
        with refused(errno.ECONNRESET):
            dom0.dispatch()
        assert guest.read("name") == b"domain1"
        sim.drop_connections()
        with refused(errno.ECONNRESET):
            guest.dispatch()


def test_what_is_called_in_the_stores_thread_raises_in_the_callers(sim: SimStore) -> None:
    with pytest.raises(ZeroDivisionError):
        sim.call(lambda: 1 // 0)
    assert sim.call(lambda: sim.call(lambda: 1)) == 1


def test_a_store_can_be_driven_without_a_thread(shm: Path) -> None:
    sim = SimStore(shm)
    sim.add_domain(4)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sim.path(4))
        sim.step(1)
        client.sendall(HEADER.pack(Op.GET_DOMAIN_PATH, 7, 0, 2) + b"4\0")
        sim.step(1)
        assert client.recv(100)[HEADER.size:] == b"/local/domain/4\0"
    sim.step(1)
    sim.stop()

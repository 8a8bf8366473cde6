"""The simulated store and Debian's xenstored give the same answers and events, whatever is asked of them.

Dom0 twice and a guest, with transactions that interleave: random sequences, by hypothesis."""
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pyxs._internal import Op

from tests.preload.xenstored import Xenstored
from tests.store.tools import settled
from xenvbd.errors import StoreError
from xenvbd.store import Store
from xenvbd.store_sim import SimStore

ACTORS = (0, 0, 1)      # the domains that talk, by number of their connection
names = st.sampled_from("ab")
paths = st.lists(names, min_size=0, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts))
values = st.sampled_from([b"", b"x", b"\0\n\xff"])
perms = st.sampled_from([["n0"], ["n0", "r1"], ["n0", "w1"], ["n0", "b1"], ["n1"], ["n1", "r0"], ["r0", "n1"],
                         ["b0"], ["w0", "r2"], ["n2", "r1", "b1"]])
actors = st.integers(0, len(ACTORS) - 1)
views = st.integers(0, 2)       # 0: no transaction, else that of this number, if the connection has it

_roots = itertools.count()


class Side:
    """One of the two stores: a session for each actor, their transactions, the events that they saw."""

    def __init__(self, machine: SimStore | Xenstored) -> None:
        self.stores = [Store(machine.path(domid)) for domid in ACTORS]
        self.transactions: dict[tuple[int, int], int] = {}
        self.events: list[tuple[int, str]] = []

    def begin(self, root: str) -> None:
        """Make a fresh directory, half the guest's, and watch it."""
        dom0 = self.stores[0]
        dom0.write(f"{root}/a", b"")
        dom0.set_perms(f"{root}/a", ["n1", "r0"])
        for actor, store in enumerate(self.stores):
            store.watch(root, lambda path, actor=actor: self.events.append((actor, path)))
            store.watch(f"{root}/a/b", lambda path, actor=actor: self.events.append((actor, f"b: {path}")))
            settled(store)

    def end(self, root: str) -> None:
        """Remove all traces."""
        for actor, view in list(self.transactions):
            self.finish(actor, view, False)
        self.stores[0].rm(root)
        for store in self.stores:
            for watch in list(store._watches.values()):
                watch.cancel()
        self.events.clear()

    def start(self, actor: int, view: int) -> None:
        """Begin a transaction."""
        number = self.stores[actor]._request(Op.TRANSACTION_START, b"\0").rstrip(b"\0")
        self.transactions[actor, view] = int(number)

    def finish(self, actor: int, view: int, commit: bool) -> None:
        """End a transaction."""
        tx = self.transactions.pop((actor, view))
        self.stores[actor]._request(Op.TRANSACTION_END, b"T\0" if commit else b"F\0", tx)

    def outcome(self, verb: Callable[["Side"], Any]) -> Any:
        """What came of it: the answer or the errno, and the events that everybody got."""
        try:
            answer = verb(self)
        except StoreError as error:
            answer = error.errno
        for store in self.stores:
            settled(store)
        seen, self.events = self.events, []
        return answer, seen


@pytest.fixture
def sides(shim: Path) -> Iterator[list[Side]]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        simulated, real = Path(directory) / "simulated", Path(directory) / "real"
        simulated.mkdir()
        real.mkdir()
        machines = [SimStore(simulated, (0, 1)).start(), Xenstored(real, shim, (0, 1))]
        both = [Side(machine) for machine in machines]
        yield both
        for side, machine in zip(both, machines, strict=True):
            for store in side.stores:
                store.close()
            machine.stop()


@pytest.mark.timeout(120)
def test_both_stores_answer_alike(sides: list[Side]) -> None:
    class Stores(RuleBasedStateMachine):
        """Does the same on both sides and compares."""

        @initialize()
        def begin(self) -> None:
            self.root = f"/t{next(_roots)}"
            self.open: set[tuple[int, int]] = set()
            for side in sides:
                side.begin(self.root)

        def teardown(self) -> None:
            for side in sides:
                side.end(self.root)

        def both(self, verb: Callable[[Side], Any]) -> Any:
            simulated, real = (side.outcome(verb) for side in sides)
            assert simulated == real
            return real[0]

        def ask(self, actor: int, view: int, verb: str, path: str, *args: Any) -> None:
            known = (actor, view) in self.open
            self.both(lambda side: getattr(side.stores[actor], verb)(
                self.root + path, *args, tx=side.transactions[actor, view] if known else 0))

        @rule(actor=actors, view=views, path=paths, value=values)
        def write(self, actor: int, view: int, path: str, value: bytes) -> None:
            self.ask(actor, view, "write", path, value)

        @rule(actor=actors, view=views, path=paths,
              verb=st.sampled_from(["read", "ls", "get_perms", "mkdir", "rm", "rm"]))
        def do(self, actor: int, view: int, path: str, verb: str) -> None:
            self.ask(actor, view, verb, path)

        @rule(actor=actors, view=views, path=paths, perms=perms)
        def set_perms(self, actor: int, view: int, path: str, perms: list[str]) -> None:
            self.ask(actor, view, "set_perms", path, perms)

        @rule(actor=actors, view=st.integers(1, 2))
        def start(self, actor: int, view: int) -> None:
            if (actor, view) not in self.open:
                self.open.add((actor, view))
                self.both(lambda side: side.start(actor, view))

        @rule(actor=actors, view=st.integers(1, 2), commit=st.sampled_from([True, True, False]))
        def finish(self, actor: int, view: int, commit: bool) -> None:
            if (actor, view) in self.open:
                self.open.remove((actor, view))
                self.both(lambda side: side.finish(actor, view, commit))

    run_state_machine_as_test(Stores, settings=settings(
        max_examples=100, stateful_step_count=40, deadline=None, database=None,
        suppress_health_check=list(HealthCheck)))

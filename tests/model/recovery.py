"""An explicit-state model of one or two rings, their journals and a backend that is killed between any two stores.

It has the stores of journal.h in their order, one step each: requests are consumed, done in any order, answered in
batches; a killed backend's writes land later, at any time; the next one adopts store by store, and may be killed too.
With persistent grants the disk works on the guest's own pages, so a killed backend's reads land late as well.
While nobody serves it the guest may begin its rings anew, in the same place, and never ask again for what was open.
explore() visits every state that can be reached and names what must never be:

    DUP     a response for a request that is not outstanding (Linux disables the disk for ever)
    LOST    nothing is left to happen, and a request was never answered
    STALE   an acknowledged write is not what its sector holds
    GARBAGE the backend takes for a request what is none
    COUNT   the journal's requests are not as many as its indices say (the next worker refuses it)
    FORGOT  a flush is acknowledged after one had failed and the journal said so
    SCRIBBLE  the disk reads or writes a page that the guest has back
    GHOST   something is begun that was asked for on an earlier ring
    REFUSED a ring is not adopted, though the guest did nothing wrong

Indices are modular, of a modulus small enough to wrap.  A `mutant` leaves something out, to show that it is needed.
"""
from __future__ import annotations

from collections import deque
from typing import NamedTuple

MODULUS = 16                        # of ring indices: enough to tell them apart, few enough to wrap
MUTANTS = ("fence", "index-first", "release-first", "forget-answered", "trust-ring", "unvalidated", "unfailed",
           "unwrapped", "again-first", "answered-once", "own-journal", "write-fence", "same-numbers",
           "only-the-last", "before-after")


class Ask(NamedTuple):
    """What the guest asks for: a write (or read) of a sector once another was acknowledged, or (no sector) a flush."""

    sector: int | None
    after: int | None = None
    ring: int = 0
    read: bool = False


class Entry(NamedTuple):
    """A journal slot in use."""

    request: int
    idx: int
    answered: bool = False
    rsp_idx: int = -1


class Ring(NamedTuple):
    """What outlives the backend: the shared ring and the journal."""

    slots: tuple[tuple[str, int] | None, ...]
    req_prod: int
    rsp_prod: int                   # shared
    rsp_cons: int                   # the frontend's
    entries: tuple[Entry | None, ...]
    req_cons: int                   # the journal's
    published: int                  # the journal's rsp_prod
    before: int                     # the journal's rsp_before
    failed: bool = False
    nonce: int = 1                  # the ring's; 0: none
    known: int = 1                  # the journal's; 0: it is no journal any more, or not yet


class Process(NamedTuple):
    """A backend that runs: what it has in flight, and the stores that it is about to make (see Model.store)."""

    doing: frozenset[int] = frozenset()
    done: frozenset[int] = frozenset()
    todo: tuple[tuple, ...] = ()


class State(NamedTuple):
    rings: tuple[Ring, ...]
    process: Process | None
    landing: frozenset[int]         # writes of killed backends that the disk will do one day
    disk: tuple[int, ...]           # the write that each sector holds
    posted: frozenset[int]
    acked: frozenset[int]
    crashes: int
    fails: int                      # flushes that the storage will fail
    failed: bool                    # one has, and some journal says so
    begun: int = 1                  # nonces that were given
    dropped: frozenset[int] = frozenset()       # asked for on an earlier ring, and not answered


class Model:
    """asked: what the guest does; size: entries of a ring; start: the first index; liar: it rewrites rsp_prod;
    persistent: its pages are mapped, not copied from and to; anew: it may begin its rings anew."""

    def __init__(self, asked: tuple[Ask, ...], *, size: int = 2, crashes: int = 2, start: int = 0, fails: int = 0,
                 mutant: str = "", liar: bool = False, persistent: bool = False, anew: bool = False) -> None:
        assert mutant in ("", *MUTANTS)
        self.asked, self.size, self.crashes, self.mutant, self.liar = asked, size, crashes, mutant, liar
        self.persistent, self.anew = persistent, anew
        empty = (None,) * size
        ring = Ring(empty, start, start, start, empty, start, start, start)
        rings = 1 + max(ask.ring for ask in asked)
        sectors = 1 + max((ask.sector for ask in asked if ask.sector is not None), default=0)
        self.first = State((ring,) * rings, Process(), frozenset(), (-1,) * sectors, frozenset(), frozenset(), 0, fails,
                           False)

    def explore(self, limit: int = 2_000_000) -> tuple[dict[str, State], int]:
        """What is wrong, each with a state, and how many states there are."""
        seen, todo, wrong = {self.first}, deque([self.first]), {}
        while todo:
            state = todo.popleft()
            steps = []
            for kind, after in self.steps(state):
                if kind:
                    wrong.setdefault(kind, state)
                else:
                    steps.append(after)
            for kind in self.judge(state, ended=not steps):
                wrong.setdefault(kind, state)
            for after in steps:
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
            assert len(seen) < limit, "too many states"
        return wrong, len(seen)

    def judge(self, state: State, ended: bool):
        """What is wrong with this state."""
        for k in state.acked:
            sector = self.asked[k].sector
            if sector is not None and not self.asked[k].read and state.disk[sector] < k:
                yield "STALE"
        if ended and len(state.acked | state.dropped) != len(self.asked) and not (state.failed or self.liar):
            yield "LOST"

    # Everything that can happen: (what is wrong, None) or ("", the state after)

    def steps(self, state: State):
        yield from self.guest(state)
        for k in state.landing:
            if self.persistent and k in state.acked:
                yield "SCRIBBLE", None
            yield "", self.landed(state._replace(landing=state.landing - {k}), k)
        if state.process is None:
            if not self.fenced(state):
                yield from self.next_backend(state)
            if self.anew and not state.dropped and state.posted - state.acked:
                yield "", self.begun_anew(state)
            return
        if state.crashes < self.crashes:
            late = {k for k in state.process.doing if self.asked[k].sector is not None
                    and (self.persistent or not self.asked[k].read)}
            yield "", state._replace(process=None, landing=state.landing | late, crashes=state.crashes + 1)
        if state.process.todo and state.process.todo[0][0] == "start" and state.process.todo[0][1] in state.dropped:
            yield "GHOST", None
        elif state.process.todo:
            yield "", self.store(state)
        else:
            yield from self.backend(state)

    def next_backend(self, state: State):
        if not any(self.meddled(ring) for ring in state.rings):
            yield "", state._replace(process=Process(todo=self.adoption(state)))
        elif not self.liar:
            yield "REFUSED", None

    def meddled(self, ring: Ring) -> bool:
        """Whether the ring's rsp_prod is none that a backend has stored."""
        allowed = (ring.published,) if self.mutant == "only-the-last" else (ring.published, ring.before)
        return self.mutant != "trust-ring" and self.is_same(ring) and ring.rsp_prod not in allowed

    def is_same(self, ring: Ring) -> bool:
        """Whether the journal is taken for this ring's."""
        return bool(ring.known) and (ring.nonce == ring.known or self.mutant == "same-numbers")

    def begun_anew(self, state: State) -> State:
        """The guest's next driver has its rings in the same place, and knows nothing of what the last one asked for."""
        empty = (None,) * self.size
        rings = tuple(ring._replace(slots=empty, req_prod=0, rsp_prod=0, rsp_cons=0, nonce=0) for ring in state.rings)
        return state._replace(rings=rings, dropped=state.posted - state.acked)

    def fenced(self, state: State) -> bool:
        """Whether the next backend has to wait."""
        if self.mutant == "write-fence":
            return any(not self.asked[k].read for k in state.landing)
        return bool(state.landing) and self.mutant != "fence"

    def silent(self, state: State, number: int) -> bool:
        """Whether nothing of this ring may be answered any more."""
        if self.mutant == "own-journal":
            return state.rings[number].failed
        return any(ring.failed for ring in state.rings) and self.mutant != "unfailed"

    def guest(self, state: State):
        for number, ring in enumerate(state.rings):
            if (ring.req_prod - ring.rsp_cons) % MODULUS < self.size:
                yield from self.post(state, number)
            if self.liar:
                yield "", self.with_ring(state, number, rsp_prod=(ring.rsp_prod + 1) % MODULUS) \
                    if ring.rsp_prod == ring.published else state
            elif ring.rsp_cons != ring.rsp_prod:
                found = ring.slots[ring.rsp_cons % self.size]
                if found is None or found[0] != "response" or found[1] not in state.posted - state.acked:
                    yield "DUP", None
                else:
                    after = self.with_ring(state, number, rsp_cons=(ring.rsp_cons + 1) % MODULUS)
                    yield "", after._replace(acked=state.acked | {found[1]})

    def post(self, state: State, number: int):
        """In the order of the program, among what may be posted."""
        ring = state.rings[number]
        for k, ask in enumerate(self.asked):
            if k not in state.posted and ask.ring == number and (ask.after is None or ask.after in state.acked):
                slots = _with(ring.slots, ring.req_prod % self.size, ("request", k))
                after = self.with_ring(state, number, slots=slots, req_prod=(ring.req_prod + 1) % MODULUS)
                yield "", after._replace(posted=state.posted | {k})
                return

    def backend(self, state: State):
        """A pass: consume a request, see one done, or answer all that is done."""
        process = state.process
        for number, ring in enumerate(state.rings):
            if self.silent(state, number):
                continue
            if ring.req_cons != ring.req_prod:
                yield from self.consume(state, number)
            if done := sorted(k for k in process.done if self.asked[k].ring == number):
                yield "", state._replace(process=process._replace(todo=self.publication(state, number, done)))
        for k in process.doing:
            after = state._replace(process=process._replace(doing=process.doing - {k}, done=process.done | {k}))
            if self.asked[k].sector is not None:
                yield "", self.landed(after, k)
            elif self.silent(state, self.asked[k].ring):
                continue
            elif state.fails:
                # Each journal says so before anything else is done; what the flush covered may be gone.
                marks = tuple(("fail", number) for number in range(len(state.rings)))
                doing = process._replace(doing=process.doing - {k}, todo=marks)
                yield "", state._replace(process=doing, fails=state.fails - 1)
            else:
                yield ("FORGOT", None) if state.failed else ("", after)

    def consume(self, state: State, number: int):
        ring = state.rings[number]
        found = ring.slots[ring.req_cons % self.size]
        if found is None or found[0] != "request":
            yield "GARBAGE", None
            return
        if None not in ring.entries:
            yield "COUNT", None
            return
        k, entry = found[1], ring.entries.index(None)
        steps = (("entry", number, entry, Entry(k, ring.req_cons)), ("consumed", number, ring.req_cons), ("start", k))
        if self.mutant == "index-first":
            steps = (steps[1], steps[0], steps[2])
        yield "", state._replace(process=state.process._replace(todo=steps))

    def publication(self, state: State, number: int, done: list[int]) -> tuple[tuple, ...]:
        ring = state.rings[number]
        steps, release, at = [], [], ring.published
        for k in done:
            entry = next(i for i, e in enumerate(ring.entries) if e and e.request == k)
            steps.append(("respond", number, at, k))
            if self.mutant != "answered-once" or k == done[-1]:
                steps.append(("answered", number, entry, at))
            release.append(("release", number, entry))
            at = (at + 1) % MODULUS
        published = [("before", number, ring.published), ("publish", number, at), ("push", number, at)]
        if self.mutant == "before-after":
            published[:2] = published[1::-1]
        return (*steps, *(release + published if self.mutant == "release-first" else published + release),
                ("finish", frozenset(done)))

    def adoption(self, state: State) -> tuple[tuple, ...]:
        """What a new backend stores before it serves, and what it begins again."""
        steps: list[tuple] = []
        begin: set[int] = set()
        for number, ring in enumerate(state.rings):
            if not self.is_same(ring):
                steps += self.connection(state, number)
                continue
            published = ring.rsp_prod if self.mutant == "trust-ring" else ring.published
            for i, entry in enumerate(ring.entries):
                if entry is None:
                    continue
                behind = entry.answered and self.is_behind(entry.rsp_idx, published)
                if behind or (entry.idx == ring.req_cons and self.mutant != "unvalidated"):
                    if self.mutant == "again-first":
                        steps.append(("again", number, i))
                    steps.append(("release", number, i))
                else:
                    if self.mutant != "forget-answered":
                        steps.append(("again", number, i))
                    if not self.silent(state, number):
                        begin.add(entry.request)
            if self.mutant == "trust-ring":
                steps.append(("publish", number, published))
            steps.append(("push", number, published))
        if self.mutant not in ("unfailed", "own-journal") and any(ring.failed for ring in state.rings):
            steps += [("fail", number) for number in range(len(state.rings))]
        return (*steps, ("check",), *(("start", k) for k in sorted(begin)))

    def connection(self, state: State, number: int) -> list[tuple]:
        """What a backend stores for a ring that it has no journal of."""
        nonce, index = state.begun + 1 + number, state.rings[number].rsp_prod
        return [("forget", number), ("create", number, index, nonce), ("mark", number, nonce)]

    def is_behind(self, index: int, published: int) -> bool:
        if self.mutant == "unwrapped":
            return index < published
        return (index - published) % MODULUS >= MODULUS // 2

    def store(self, state: State) -> State:
        """The first of the stores to be made."""
        process = state.process
        (kind, *rest), left = process.todo[0], process.todo[1:]
        after = state._replace(process=process._replace(todo=left))
        if kind == "start":
            return after._replace(process=after.process._replace(doing=process.doing | {rest[0]}))
        if kind == "finish":
            return after._replace(process=after.process._replace(done=process.done - rest[0]))
        if kind == "check":
            return after
        number, *values = rest
        ring = state.rings[number]
        if kind == "respond":
            changed = {"slots": _with(ring.slots, values[0] % self.size, ("response", values[1]))}
        elif kind == "fail":
            after = after._replace(failed=True)
            changed = {"failed": True}
        elif kind == "forget":
            changed = {"known": 0, "entries": (None,) * self.size}
        elif kind == "create":
            changed = {"req_cons": values[0], "published": values[0], "before": values[0], "known": values[1]}
            after = after._replace(begun=max(after.begun, values[1]))
        elif kind == "mark":
            changed = {"nonce": values[0]}
            after = after._replace(begun=max(after.begun, values[0]))
        elif kind in ("consumed", "publish", "push", "before"):
            name = {"consumed": "req_cons", "publish": "published", "push": "rsp_prod", "before": "before"}[kind]
            changed = {name: (values[0] + (kind == "consumed")) % MODULUS}
        else:
            changed = {"entries": _with(ring.entries, values[0], self.entry(kind, ring.entries[values[0]], values))}
        return self.with_ring(after, number, **changed)

    @staticmethod
    def entry(kind: str, entry: Entry | None, values) -> Entry | None:
        """A journal slot after a store."""
        if kind == "entry":
            return values[1]
        if kind == "release" or entry is None:
            return None
        return entry._replace(answered=kind == "answered", rsp_idx=values[1] if kind == "answered" else entry.rsp_idx)

    def landed(self, state: State, k: int) -> State:
        return state if self.asked[k].read else state._replace(disk=_with(state.disk, self.asked[k].sector, k))

    @staticmethod
    def with_ring(state: State, number: int, **changed) -> State:
        return state._replace(rings=_with(state.rings, number, state.rings[number]._replace(**changed)))


def consistent(ring: Ring) -> bool:
    """Whether a journal that nobody is writing to has as many requests as its indices say."""
    used = [entry for entry in ring.entries if entry is not None]
    left = [entry for entry in used if entry.idx != ring.req_cons and not (
        entry.answered and (entry.rsp_idx - ring.published) % MODULUS >= MODULUS // 2)]
    return len(left) == (ring.req_cons - ring.published) % MODULUS


def _with(values: tuple, index: int, value) -> tuple:
    return (*values[:index], value, *values[index + 1:])

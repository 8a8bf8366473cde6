"""No order of stores, deaths and late writes loses, repeats or reorders anything; and each rule of it is needed."""
import pytest

from tests.model.recovery import Ask, Model, consistent

INDEPENDENT = (Ask(0), Ask(1), Ask(2))
REWRITES = (Ask(0), Ask(1), Ask(0, after=0), Ask(1, after=1))
FLUSHES = (Ask(0), Ask(None, after=0), Ask(None, after=1))
READS = (Ask(0), Ask(0, after=0, read=True), Ask(1, read=True), Ask(0, after=1))
TWO_RINGS = (Ask(0), Ask(1, ring=1), Ask(0, after=0, ring=1))
INDEPENDENT_ON_TWO_RINGS = (Ask(0), Ask(1, ring=1), Ask(2, ring=1))
FLUSHES_ON_TWO_RINGS = (Ask(None), Ask(None, ring=1), Ask(None, after=1, ring=1))


@pytest.mark.parametrize("model", [
    Model(INDEPENDENT, crashes=3), Model(INDEPENDENT, start=14), Model(REWRITES), Model(REWRITES, start=15, crashes=1),
    Model((Ask(0), Ask(1), Ask(2), Ask(3)), size=4, crashes=1), Model(FLUSHES, fails=1, crashes=3),
    Model(TWO_RINGS, crashes=1), Model(FLUSHES_ON_TWO_RINGS, fails=1), Model(READS), Model(READS, persistent=True),
    Model(TWO_RINGS, crashes=1, start=15, persistent=True), Model(INDEPENDENT, anew=True),
    Model(INDEPENDENT, anew=True, start=14), Model(INDEPENDENT_ON_TWO_RINGS, anew=True, crashes=2)],
    ids=["independent", "wrapping", "rewrites", "rewrites-wrapping", "a-larger-ring", "a-failed-flush", "two-rings",
         "a-failed-flush-of-two-rings", "reads", "persistent-grants", "persistent-grants-of-two-rings-wrapping",
         "begun-anew", "begun-anew-wrapping", "two-rings-begun-anew"])
def test_nothing_is_lost_repeated_or_reordered(model):
    wrong, states = model.explore()
    assert not wrong and states > 300


@pytest.mark.parametrize("mutant, writes, kind", [
    ("fence", REWRITES, "STALE"), ("index-first", INDEPENDENT, "LOST"), ("release-first", INDEPENDENT, "LOST"),
    ("only-the-last", INDEPENDENT, "REFUSED"), ("before-after", INDEPENDENT, "REFUSED"),
    ("forget-answered", INDEPENDENT, "LOST"), ("unvalidated", INDEPENDENT, "DUP"), ("unfailed", FLUSHES, "FORGOT")])
def test_each_rule_is_needed(mutant, writes, kind):
    wrong, _ = Model(writes, mutant=mutant, fails=1).explore()
    assert kind in wrong


@pytest.mark.parametrize("mutant, with_it, without_it, kind", [
    ("unwrapped", {"asked": INDEPENDENT, "start": 14}, {"asked": INDEPENDENT}, "DUP"),
    ("again-first", {"asked": INDEPENDENT, "crashes": 2}, {"asked": INDEPENDENT, "crashes": 1}, "DUP"),
    ("answered-once", {"asked": INDEPENDENT}, {"asked": INDEPENDENT, "size": 1}, "DUP"),
    ("own-journal", {"asked": FLUSHES_ON_TWO_RINGS, "fails": 1}, {"asked": FLUSHES, "fails": 1}, "FORGOT"),
    ("write-fence", {"asked": READS, "persistent": True}, {"asked": READS}, "SCRIBBLE"),
    ("same-numbers", {"asked": INDEPENDENT, "anew": True}, {"asked": INDEPENDENT}, "GHOST")],
    ids=["the-wrap-of-indices", "deaths-within-an-adoption", "batches", "several-queues", "persistent-grants",
         "generations"])
def test_a_mutant_is_found_where_the_model_has_what_it_breaks_and_only_there(mutant, with_it, without_it, kind):
    """So each of these is really explored."""
    assert kind in Model(mutant=mutant, **with_it).explore()[0]
    assert not Model(mutant=mutant, **without_it).explore()[0]


def test_a_guest_that_writes_over_rsp_prod_harms_nobody_but_itself():
    """It is not adopted, or loses its own answers; its journal stays consistent, no request is taken for another."""
    model = Model(INDEPENDENT, liar=True)
    wrong, states = model.explore()
    assert not wrong and states > 300


def test_a_backend_that_believed_the_ring_would_take_a_response_for_a_request():
    wrong, _ = Model(INDEPENDENT, liar=True, mutant="trust-ring").explore()
    assert "GARBAGE" in wrong


def test_a_journal_is_consistent_wherever_its_backend_died():
    model, states = Model(REWRITES), 0
    seen, todo = {model.first}, [model.first]
    while todo:
        state = todo.pop()
        if state.process is None:
            states += 1
            assert all(consistent(ring) for ring in state.rings)
        for kind, after in model.steps(state):
            if not kind and after not in seen:
                seen.add(after)
                todo.append(after)
    assert states > 300

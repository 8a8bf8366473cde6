"""The load generator: what it sends, counts and catches."""
import hashlib
import time

import pytest

from tests.frontend.model import DISCARD, ERROR, FLUSH, OKAY, READ, WRITE, Model
from xenvbd.frontend.load import KINDS, Load
from xenvbd.frontend.oracle import OracleError, Unanswered
from xenvbd.frontend.queue import FrontQueue
from xenvbd.frontend.responder import Responder
from xenvbd.frontend.shadow import Shadow

Pair = tuple[FrontQueue, Model]
SECTORS = 2048


def run(load: Load) -> Load:
    """To its end."""
    while load.step(0.1):
        pass
    return load


def ops(load: Load) -> dict[str, int]:
    return {name: op.ops for name, op in load.snapshot.ops.items() if op.ops}


def test_one_pass_writes_every_sector_and_verify_reads_it_back(pair: Pair) -> None:
    queue, model = pair
    shadow = Shadow(SECTORS)
    assert ops(run(Load(queue, shadow, rw="write", bs=20480))) == {"write": 52}
    verify = run(Load(queue, shadow, rw="verify", bs=20480))
    assert ops(verify) == {"read": 52}
    assert verify.verified == len(model.disk)
    assert shadow.digest() == hashlib.sha256(model.disk).hexdigest()


@pytest.mark.parametrize("rw", KINDS)
def test_every_kind_ends_with_nothing_in_flight(pair: Pair, rw: str) -> None:
    load = run(Load(pair[0], Shadow(SECTORS), rw=rw, count=200, iodepth=32))
    assert sum(ops(load).values()) == 200
    assert load.snapshot.inflight == 0
    assert pair[0].outstanding == []


def test_a_mixed_load_with_flushes_discards_and_odd_segments_stays_verified(pair: Pair) -> None:
    queue, model = pair
    shadow = Shadow(SECTORS)
    load = run(Load(queue, shadow, rw="randrw", bs=2560, count=600, flush_every=20, discard_every=30, skew=True))
    assert ops(load).keys() == {"read", "write", "flush", "discard"}
    assert {r.operation for r in model.seen} == {READ, WRITE, FLUSH, DISCARD}
    assert len({r.segments[0][1] for r in model.seen if r.segments}) == 8
    run(Load(queue, shadow, rw="verify"))
    assert shadow.digest() == hashlib.sha256(model.disk).hexdigest()


def test_the_same_seed_sends_the_same_requests(queue_of) -> None:
    sent = []
    for _ in range(2):
        queue, model = queue_of()
        run(Load(queue, Shadow(SECTORS), rw="randrw", count=50, iodepth=1, seed=7))
        sent.append([(r.operation, r.sector) for r in model.seen])
    assert sent[0] == sent[1]


def test_no_two_requests_in_flight_touch_a_block_while_there_are_writes(pair: Pair) -> None:
    queue, model = pair
    model.silent = True
    load = Load(queue, Shadow(SECTORS), rw="randwrite", sectors=64, iodepth=32)
    load.step(0.01)
    assert len(queue.outstanding) == 8
    model.silent = False
    load.stop = True
    run(load)
    assert len({r.sector for r in model.seen[:8]}) == 8


def test_the_region_is_not_left(pair: Pair) -> None:
    queue, model = pair
    run(Load(queue, Shadow(SECTORS), rw="randrw", first=100, sectors=50, bs=4096, count=300, iodepth=4))
    assert {r.sector for r in model.seen} <= {100 + 8 * i for i in range(7)}
    assert max(r.sector + sum(b - a + 1 for _, a, b in r.segments) for r in model.seen) == 150


def test_seconds_bound_the_run_and_progress_can_be_read_between_steps(pair: Pair) -> None:
    load, start = Load(pair[0], Shadow(SECTORS), rw="randread", seconds=0.15), time.monotonic()
    seen = []
    while load.step(0.05):
        seen.append(sum(ops(load).values()))
    assert seen == sorted(seen)
    assert 0.15 <= load.seconds <= time.monotonic() - start


def test_latencies_bytes_and_notifications_are_counted(pair: Pair) -> None:
    load = run(Load(pair[0], Shadow(SECTORS), rw="randread", bs=8192, count=100, iodepth=4))
    read = load.snapshot.ops["read"]
    assert (read.ops, read.bytes, sum(read.histogram)) == (100, 819200, 100)
    assert read.nanoseconds > 0
    assert load.snapshot.counters["events_out"] <= load.snapshot.counters["pushes"]
    assert load.snapshot.counters["events_in"] > 0
    assert 0 < load.cpu_seconds <= load.seconds


def test_a_bit_that_flips_is_named(pair: Pair) -> None:
    queue, model = pair
    shadow = Shadow(SECTORS)
    run(Load(queue, shadow, rw="write"))
    model.disk[777 * 512 + 100] ^= 1
    with pytest.raises(OracleError, match="sector 777: expected version 98, read a torn sector") as caught:
        run(Load(queue, shadow, rw="verify"))
    assert caught.value.facts["sector"] == 777
    with pytest.raises(OracleError, match="sector 777"):
        queue.execute(READ, 0, 1)


def test_a_lost_write_is_named(pair: Pair) -> None:
    queue, model = pair
    shadow = Shadow(SECTORS)
    run(Load(queue, shadow, rw="write"))
    old = bytes(model.disk[4096:8192])
    run(Load(queue, shadow, rw="write", first=8, sectors=8))
    model.disk[4096:8192] = old
    with pytest.raises(OracleError, match=r"sector 8: expected version 257, read version 2 \(stale\)"):
        run(Load(queue, shadow, rw="randread", first=8, sectors=8))


def test_a_read_that_was_answered_but_never_made_is_caught(pair: Pair) -> None:
    queue, model = pair
    shadow = Shadow(SECTORS)
    run(Load(queue, shadow, rw="write"))
    model._move = lambda operation, r: None
    with pytest.raises(OracleError, match="sector 0: expected version 1, read"):
        run(Load(queue, shadow, rw="verify", iodepth=1))


def test_an_answer_given_twice_under_load_is_caught(pair: Pair) -> None:
    queue, model = pair
    model.lie = lambda answers: [*answers[:-1], answers[0]] if len(answers) > 8 else answers
    with pytest.raises(OracleError, match="was answered before"):
        run(Load(queue, Shadow(SECTORS), rw="randread", iodepth=16))


def test_an_error_is_the_oracles_business_unless_tolerated(pair: Pair) -> None:
    queue, model = pair
    model.lie = lambda answers: [(id, operation, ERROR) for id, operation, _ in answers]
    load = run(Load(queue, Shadow(SECTORS), rw="randwrite", count=50, tolerate=True))
    assert load.snapshot.ops["write"].errors == 50
    with pytest.raises(OracleError, match="has status ERROR"):
        run(Load(queue, Shadow(SECTORS), rw="randwrite", count=50))


def test_a_failed_write_may_have_landed_or_not_and_verify_settles_which(pair: Pair) -> None:
    queue, model = pair
    shadow = Shadow(SECTORS)
    model.lie = lambda answers: [(id, operation, ERROR if id % 3 else OKAY) for id, operation, _ in answers]
    run(Load(queue, shadow, rw="write", tolerate=True))
    assert shadow.uncertain(0, SECTORS)
    model.lie = lambda answers: answers
    run(Load(queue, shadow, rw="verify"))
    assert shadow.uncertain(0, SECTORS) == []
    assert shadow.digest() == hashlib.sha256(model.disk).hexdigest()


def test_a_backend_that_falls_silent_is_named_with_the_ids(pair: Pair) -> None:
    queue, model = pair
    model.silent = True
    load = Load(queue, Shadow(SECTORS), rw="randread", iodepth=3, timeout=0.1)
    with pytest.raises(Unanswered, match="no response in time for 3 requests"):
        run(load)
    assert 0.1 <= load.seconds < 30, "not after the time that holds where none is given"
    model.silent = False
    run(load)


def test_stop_finishes_what_is_in_flight(pair: Pair) -> None:
    load = Load(pair[0], Shadow(SECTORS), rw="randread", seconds=60)
    load.step(0.02)
    load.stop = True
    run(load)
    assert load.snapshot.inflight == 0


def test_polling_sleeps_not_once(pair: Pair) -> None:
    queue, _ = pair
    queue.spin = True
    assert run(Load(queue, Shadow(SECTORS), rw="randread", count=50)).snapshot.counters["wakeups"] == 0


def test_without_verify_nothing_is_known_of_the_region_afterwards(pair: Pair) -> None:
    queue, _ = pair
    shadow = Shadow(SECTORS)
    run(Load(queue, shadow, rw="randwrite", verify=False, count=10))
    assert len(shadow.uncertain(0, SECTORS)) == SECTORS


def test_fresh_grants_serve_a_load_and_leave_none_behind(machine, queue_of) -> None:
    queue, _ = queue_of(fresh_grants=True)
    before = len(machine.grants(5))
    run(Load(queue, Shadow(SECTORS), rw="randrw", bs=12288, count=100, skew=True))
    assert len(machine.grants(5)) == before


@pytest.mark.parametrize(("options", "message"), [
    ({"rw": "sideways"}, "none of read, write"), ({"bs": 1000}, "multiple of 512"), ({"bs": 0}, "multiple of 512"),
    ({"bs": 49152}, "more than the 11 segments"), ({"sectors": 0}, "no region"),
    ({"first": 2000, "sectors": 100}, "no region of 100 sectors at 2000")])
def test_what_cannot_be_sent_is_refused(queue: FrontQueue, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Load(queue, Shadow(SECTORS), **options)


def test_an_inline_responder_measures_the_generator_alone(machine) -> None:
    queue = FrontQueue(machine.join(5), 0, 4)
    queue.attach(Responder(queue))
    load = run(Load(queue, Shadow(1 << 20), rw="randread", verify=False, count=200_000))
    assert ops(load) == {"read": 200_000}
    queue.close()

"""The frontend's queue against a backend written independently, and against one that lies."""
import errno
import os
import struct

import pytest

from tests.frontend.model import ABIS, DISCARD, ERROR, FLUSH, INDIRECT, OKAY, READ, WRITE, Model
from xenvbd.errors import HypervisorError
from xenvbd.frontend.oracle import OracleError, Unanswered
from xenvbd.frontend.queue import FrontQueue
from xenvbd.ring import Request

Pair = tuple[FrontQueue, Model]


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("abi", ABIS)
def test_what_is_written_is_read_in_every_abi_and_ring_size(queue_of, abi, order) -> None:
    queue, model = queue_of(order, abi=abi)
    data = os.urandom(88 * 512)
    assert queue.execute(WRITE, 3, 88, data) == (OKAY, None)
    assert model.disk[3 * 512:91 * 512] == data
    assert queue.execute(READ, 3, 88) == (OKAY, data)
    assert model.entries == queue.entries


@pytest.mark.parametrize("abi", ABIS)
def test_more_than_11_segments_go_out_as_indirect_and_come_back_as_the_inner_operation(queue_of, abi) -> None:
    queue, model = queue_of(abi=abi)
    queue.max_segments = 256
    data = os.urandom(2048 * 512)
    assert queue.execute(WRITE, 0, 2048, data) == (OKAY, None)
    assert queue.execute(READ, 0, 2048) == (OKAY, data)
    sent = [(r.operation, r.inner, len(r.segments)) for r in model.seen]
    assert sent == [(INDIRECT, WRITE, 256), (INDIRECT, READ, 256)]


def test_few_segments_may_go_out_as_indirect_too(pair: Pair) -> None:
    queue, model = pair
    queue.always_indirect = True
    assert queue.execute(WRITE, 0, 3, b"x" * 1536) == (OKAY, None)
    assert (model.seen[0].operation, len(model.seen[0].segments)) == (INDIRECT, 1)


def test_a_request_of_more_segments_than_agreed_is_not_sent(queue: FrontQueue) -> None:
    with pytest.raises(ValueError, match="89 sectors need more than 11 segments"):
        queue.execute(READ, 0, 89)


def test_data_may_start_anywhere_in_its_first_page(pair: Pair) -> None:
    queue, model = pair
    for skew in range(8):
        data = os.urandom(9 * 512)
        assert queue.execute(WRITE, 5, 9, data, skew=skew) == (OKAY, None)
        assert queue.execute(READ, 5, 9, skew=skew) == (OKAY, data)
        assert model.seen[-1].segments[0][1] == skew


def test_flush_and_discard_carry_no_pages(pair: Pair) -> None:
    queue, model = pair
    assert queue.execute(FLUSH, 0, 0) == (OKAY, None)
    assert queue.execute(DISCARD, 8, 16) == (OKAY, None)
    assert [(r.operation, r.segments, r.nr_sectors) for r in model.seen] == [(FLUSH, [], 0), (DISCARD, [], 16)]


def test_units_of_a_4096_byte_sector_are_counted_as_the_persona_counts(pair: Pair) -> None:
    queue, model = pair
    queue.number_shift = 3
    queue.execute(READ, 16, 8)
    queue.segment_shift = 3
    queue.execute(READ, 16, 16)
    assert [(r.sector, [s[1:] for s in r.segments]) for r in model.seen] == [(2, [(0, 7)]), (2, [(0, 0), (0, 0)])]


@pytest.mark.parametrize("index", [2**32 - 3, 2**31 - 1, 77])
def test_indices_may_start_anywhere_and_wrap(queue_of, index) -> None:
    queue, _ = queue_of(index=index)
    for sector in range(100):
        assert queue.execute(WRITE, sector, 1, bytes([sector]) * 512) == (OKAY, None)
    assert queue.req_prod == (index + 100) & 0xFFFFFFFF


def test_fresh_grants_are_revoked_when_the_response_is_there(machine, queue_of) -> None:
    queue, model = queue_of(fresh_grants=True)
    before = len(machine.grants(5))
    assert queue.execute(WRITE, 0, 80, b"w" * 40960) == (OKAY, None)
    assert queue.execute(READ, 0, 80) == (OKAY, b"w" * 40960)
    assert len(machine.grants(5)) == before
    assert len({segment[0] for r in model.seen for segment in r.segments}) >= 10


def test_pages_that_cannot_be_taken_back_at_the_response_are_an_error(queue_of, machine) -> None:
    queue, _ = queue_of(fresh_grants=True)
    machine.inject("unshare", 0, -errno.EBUSY)
    with pytest.raises(HypervisorError, match="the pages of request 0x10000 cannot be taken back"):
        queue.execute(READ, 0, 1)


# A backend that lies

def caught(queue: FrontQueue, model: Model, lie, operation: int = READ) -> OracleError:
    """What the oracle says when the answer to a read of sector 7 is changed so."""
    model.lie = lie
    with pytest.raises(OracleError) as caught:
        queue.execute(operation, 7, 1, b"d" * 512 if operation == WRITE else None)
        queue.drain(0.3)
    with pytest.raises(OracleError):
        queue.execute(READ, 0, 1)       # like blkfront: disabled for further use
    return caught.value


def test_an_unknown_id_is_caught(pair: Pair) -> None:
    error = caught(*pair, lambda answers: [(0x7777, READ, OKAY)])
    assert str(error) == "response 0: id 0x7777 is of no request"


def test_an_id_of_no_slot_is_caught(pair: Pair) -> None:
    assert "is of no request" in str(caught(*pair, lambda answers: [(2**64 - 1, READ, OKAY)]))


def test_an_answer_given_twice_is_caught(pair: Pair) -> None:
    queue, model = pair
    queue.execute(READ, 0, 1)
    first = model.seen[0].id
    error = caught(queue, model, lambda answers: [(first, READ, OKAY)])
    assert str(error) == f"response 1: id {first:#x} was answered before"


def test_another_operation_is_caught(pair: Pair) -> None:
    error = caught(*pair, lambda answers: [(answers[0][0], WRITE, OKAY)])
    assert "carries WRITE (1), the request was READ (0)" in str(error)
    assert (error.facts["sector"], error.facts["sectors"]) == (7, 1)


def test_indirect_as_the_operation_of_a_response_is_caught(pair: Pair) -> None:
    pair[0].always_indirect = True
    error = caught(*pair, lambda answers: [(answers[0][0], INDIRECT, OKAY)], WRITE)
    assert "carries INDIRECT (6), the request was WRITE (1)" in str(error)


def test_a_status_that_blkif_does_not_have_is_caught(pair: Pair) -> None:
    for_status = caught(*pair, lambda answers: [(answers[0][0], READ, 3)])
    assert "unknown status (3)" in str(for_status)


def test_more_responses_than_requests_are_caught(pair: Pair) -> None:
    error = caught(*pair, lambda answers: [*answers, *answers])
    assert "2 responses beyond the 0 taken, for 1 requests" in str(error)


def test_bytes_outside_the_segments_that_a_read_changes_are_caught(pair: Pair) -> None:
    queue, model = pair

    def scribble(answers):
        model.table.write(5, model.seen[-1].segments[0][0], 4096 - 8, b"\0" * 8)
        return answers

    assert "changed bytes outside its segments" in str(caught(queue, model, scribble))


def test_no_answer_by_the_deadline_names_the_ids_and_the_answer_may_still_come(pair: Pair) -> None:
    queue, model = pair
    model.silent = True
    with pytest.raises(Unanswered, match=r"no response in time for 1 requests: id 0x10000") as caught:
        queue.execute(READ, 0, 1, timeout=0.05)
    assert caught.value.facts["ids"] == queue.outstanding == [0x10000]
    model.silent = False
    queue.drain()
    assert queue.outstanding == []


def test_an_error_status_is_a_result_and_no_lie(pair: Pair) -> None:
    assert pair[0].execute(READ, 2048, 1) == (ERROR, None)


# Raw requests

def test_a_raw_request_goes_out_as_it_is(pair: Pair) -> None:
    queue, model = pair
    page = queue.share(1)
    queue.raw(Request(WRITE, 2**64 - 1, 9, ((page.refs[0], 2, 3),)))
    queue.publish()
    assert queue.responses() == [(2**64 - 1, WRITE, OKAY)]
    assert (model.seen[0].sector, model.seen[0].segments) == (9, [(page.refs[0], 2, 3)])


def test_raw_requests_may_share_an_id(pair: Pair) -> None:
    queue, _ = pair
    for operation in (FLUSH, FLUSH, DISCARD):
        queue.raw(Request(operation, 0))
    queue.publish()
    assert sorted(queue.responses()) == [(0, FLUSH, OKAY), (0, FLUSH, OKAY), (0, DISCARD, OKAY)]


def test_raw_bytes_fill_an_entry(pair: Pair) -> None:
    queue, _ = pair
    queue.raw_bytes(struct.pack("<BBHxxxxQQ", 200, 0, 0, 42, 0), 42, 200)
    queue.publish()
    assert queue.responses() == [(42, 200, -2)]


def test_a_raw_answer_given_twice_is_told_from_an_unknown_one(pair: Pair) -> None:
    queue, model = pair
    queue.raw(Request(FLUSH, 2**50))
    queue.publish()
    queue.responses()
    model.lie = lambda answers: [(2**50, FLUSH, OKAY)]
    with pytest.raises(OracleError, match="id 0x4000000000000 was answered before"):
        queue.execute(FLUSH, 0, 0)


def test_a_full_ring_takes_no_more(queue_of) -> None:
    queue, model = queue_of()
    model.silent = True
    for i in range(queue.entries):
        queue.raw(Request(FLUSH, i))
    with pytest.raises(OSError, match="the ring is full"):
        queue.raw(Request(FLUSH, 99))
    queue.publish()
    model.silent = False
    assert len(queue.responses()) == queue.entries


def test_the_producer_may_be_set_to_anything(pair: Pair) -> None:
    queue, model = pair
    model.silent = True
    queue.publish(req_prod=2**32 - 1)
    assert bytes(queue.ring_memory[:4]) == b"\xff" * 4


def test_requests_of_one_id_come_back_by_operation_when_every_id_is_zero(pair: Pair) -> None:
    queue, model = pair
    queue.anonymous = True
    assert queue.execute(WRITE, 0, 1, b"g" * 512) == (OKAY, None)
    assert queue.execute(READ, 0, 1) == (OKAY, b"g" * 512)
    assert {r.id for r in model.seen} == {0}


def test_closing_with_an_answer_nobody_asked_for_is_an_error(machine, queue_of) -> None:
    queue = FrontQueue(machine.join(5), 0)
    queue.ring_memory[8:12] = struct.pack("<I", 1)
    with pytest.raises(OracleError, match="rsp_prod is 1"):
        queue.close()


def test_a_closed_queue_gives_everything_back(machine) -> None:
    queue = FrontQueue(machine.join(5), 0, 2)
    queue.close()
    assert machine.grants(5) == []
    assert [p for p in machine.ports(5) if p.state != "free"] == []
    with pytest.raises(OSError, match="closed"):
        queue.execute(READ, 0, 1)

"""The shared ring: both ends against each other, in three ABIs, around the wrap of the indices."""
import errno
import struct
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenvbd.ring import BackRing, FrontRing, Request

PAGE = 4096
READ, WRITE, FLUSH, DISCARD, INDIRECT = 0, 1, 3, 5, 6
ABIS = ["native", "x86_32-abi", "x86_64-abi"]
ENTRY = {"native": 112, "x86_32-abi": 108, "x86_64-abi": 112}
U32 = 1 << 32

abis = st.sampled_from(ABIS)
indices = st.one_of(st.integers(0, U32 - 1), st.integers(U32 - 600, U32 - 1))
u8, u16, u32, u64 = (st.integers(0, (1 << n) - 1) for n in (8, 16, 32, 64))
segments = st.tuples(u32, u8, u8)
requests = st.one_of(
    st.builds(Request, operation=st.sampled_from([READ, WRITE, FLUSH, 2, 4, 255]), id=u64, sector=u64,
              segments=st.lists(segments, max_size=11).map(tuple), handle=u16),
    st.builds(Request, operation=st.just(DISCARD), id=u64, sector=u64, sub=u8, handle=u16, nr_sectors=u64),
    st.builds(Request, operation=st.just(INDIRECT), id=u64, sector=u64, sub=u8, handle=u16,
              nr_segments=u16, grefs=st.lists(u32, min_size=8, max_size=8).map(tuple)))


def pair(pages: int = 1, abi: str = "native", index: int = 0) -> tuple[bytearray, FrontRing, BackRing]:
    memory = bytearray(PAGE * pages)
    return memory, FrontRing(memory, abi, index), BackRing(memory, abi, index)


def as_taken(request: Request) -> Request:
    """What the other end must see: counts filled in, and the indirect pages that the segments need."""
    if request.operation == INDIRECT:
        return request._replace(grefs=request.grefs[:min(8, -(-request.nr_segments // 512))])
    return request._replace(nr_segments=len(request.segments))


def poke(memory: bytearray, field: int, value: int) -> None:
    struct.pack_into("=I", memory, field * 4, value % U32)


REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = range(4)


@pytest.mark.parametrize(("pages", "entries"), [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)])
@pytest.mark.parametrize("abi", ABIS)
def test_a_ring_has_the_entries_that_ring_h_computes(pages: int, entries: int, abi: str) -> None:
    _, front, back = pair(pages, abi)
    assert front.entries == back.entries == entries


def test_what_is_no_ring_is_refused() -> None:
    for memory in (b"", bytearray(0), bytearray(4095), bytes(4096)):
        with pytest.raises((ValueError, BufferError)):
            BackRing(memory)
    with pytest.raises(ValueError, match="x86_16"):
        BackRing(bytearray(4096), "x86_16-abi")


@given(request=requests, abi=abis, index=indices)
def test_a_request_arrives_as_it_was_put(request: Request, abi: str, index: int) -> None:
    _, front, back = pair(1, abi, index)
    front.put(request)
    front.push()
    assert back.pending() == 1
    assert back.take() == as_taken(request)


def test_the_x86_64_layout_is_the_headers() -> None:
    memory, front, _ = pair(1, "x86_64-abi")
    front.put(Request(READ, 0x1122334455667788, 99, ((7, 1, 2),), handle=51712))
    assert struct.unpack_from("=BBH4xQQIBB", memory, 64) == (READ, 1, 51712, 0x1122334455667788, 99, 7, 1, 2)


def test_the_x86_32_layout_is_the_headers() -> None:
    memory, front, _ = pair(1, "x86_32-abi")
    front.put(Request(READ, 0x1122334455667788, 99, ((7, 1, 2),), handle=51712))
    assert struct.unpack_from("=BBHQQIBB", memory, 64) == (READ, 1, 51712, 0x1122334455667788, 99, 7, 1, 2)


@pytest.mark.parametrize(("abi", "layout"), [("x86_64-abi", "=BBH4xQQHxxI"), ("x86_32-abi", "=BBHQQHxxI")])
def test_an_indirect_request_has_its_own_layout(abi: str, layout: str) -> None:
    memory, front, _ = pair(1, abi)
    front.put(Request(INDIRECT, 5, 99, sub=WRITE, nr_segments=300, handle=51712, grefs=(8, 9)))
    assert struct.unpack_from(layout, memory, 64) == (INDIRECT, WRITE, 300, 5, 99, 51712, 8)


@given(abi=abis, index=indices, responses=st.lists(
    st.tuples(u64, u8, st.integers(-(1 << 15), (1 << 15) - 1)), min_size=1, max_size=32))
def test_responses_arrive_as_they_were_written(abi: str, index: int, responses: list) -> None:
    _, front, back = pair(1, abi, index)
    for id_, operation, _status in responses:
        front.put(Request(operation, id_))
    front.push()
    for response in responses:
        back.take()
        back.respond(*response)
    back.push()
    assert front.pending() == len(responses)
    assert [front.take() for _ in responses] == responses


@pytest.mark.parametrize("abi", ABIS)
def test_a_response_changes_no_byte_but_its_own_and_zeroes_its_padding(abi: str) -> None:
    memory, front, back = pair(1, abi)
    front.put(Request(READ, 1))
    front.push()
    back.take()
    memory[64:] = b"\xa5" * (PAGE - 64)
    back.respond(0x0102030405060708, READ, -1)
    response = struct.pack("=QBxhI" if ENTRY[abi] == 112 else "=QBxh", 0x0102030405060708, READ, -1,
                           *[0] * (ENTRY[abi] == 112))
    assert memory[64:] == response + b"\xa5" * (PAGE - 64 - len(response))


@pytest.mark.parametrize("order", range(5))
@given(index=indices, abi=abis, inflight=st.integers(0, 32))
@settings(max_examples=30)
def test_a_producer_may_be_at_most_a_ring_ahead_of_the_responses(order, index, abi, inflight) -> None:
    for delta in ("0", "1", "N-1", "N", "N+1", "2**31", "2**32-1"):
        memory, front, back = pair(1 << order, abi, index)
        n = back.entries
        for _ in range(inflight):
            front.put(Request(READ, 1))
        front.push()
        for _ in range(back.pending()):
            back.take()
        ahead = eval(delta, {"N": n})
        poke(memory, REQ_PROD, index + ahead)
        if inflight <= ahead <= n:
            assert back.pending() == ahead - inflight
        else:
            with pytest.raises(OSError) as error:
                back.pending()
            assert error.value.errno == errno.EPROTO


def test_a_producer_that_goes_back_has_overrun_the_ring() -> None:
    memory, front, back = pair()
    for i in range(5):
        front.put(Request(READ, i))
    front.push()
    for _ in range(5):
        back.take()
    poke(memory, REQ_PROD, 3)
    with pytest.raises(OSError):
        back.pending()


@given(abi=abis, index=indices, order=st.integers(0, 2), data=st.data())
def test_a_ring_in_use_is_a_queue_of_requests_and_of_responses(abi, index, order, data) -> None:
    _, front, back = pair(1 << order, abi, index)
    posted, taken, answered = deque(), deque(), deque()
    for step in data.draw(st.lists(st.sampled_from(["put", "take", "answer", "collect"]), max_size=120)):
        if step == "put" and front.free():
            posted.append(data.draw(u64))
            front.put(Request(READ, posted[-1]))
            front.push()
        elif step == "take" and back.pending():
            taken.append(back.take().id)
            assert taken[-1] == posted.popleft()
        elif step == "answer" and taken:
            answered.append(taken.popleft())
            back.respond(answered[-1], READ, 0)
            back.push()
        elif step == "collect" and front.pending():
            assert front.take() == (answered.popleft(), READ, 0)
    assert back.pending() == len(posted)
    assert front.pending() == len(answered)
    assert front.free() == front.entries - len(posted) - len(taken) - len(answered)


@given(index=indices, data=st.data())
def test_no_wake_up_is_lost_whatever_the_order_of_pushes_and_checks(index: int, data) -> None:
    """Each end sleeps only when its final check found nothing, and wakes when push() said to notify it."""
    _, front, back = pair(1, "native", index)
    back_asleep, front_asleep, unseen_requests, unseen_responses = False, False, 0, 0
    steps = st.sampled_from(["submit", "serve", "back_sleep", "front_sleep"])
    for step in data.draw(st.lists(steps, max_size=60)):
        if step == "submit" and front.free() and not front_asleep:
            front.put(Request(READ, 1))
            unseen_requests += 1
            if front.push():
                back_asleep = False
        elif step == "serve" and not back_asleep:
            for _ in range(back.pending()):
                back.take()
                back.respond(1, READ, 0)
                unseen_requests, unseen_responses = unseen_requests - 1, unseen_responses + 1
            if unseen_responses and back.push():
                front_asleep = False
        elif step == "back_sleep":
            back_asleep = back_asleep or not back.final_check()
        elif step == "front_sleep" and not front_asleep:
            for _ in range(front.pending()):
                front.take()
                unseen_responses -= 1
            front_asleep = not front.final_check()
        assert not (back_asleep and unseen_requests), "requests posted, nobody told the backend"
        assert not (front_asleep and unseen_responses), "responses published, nobody told the frontend"


@given(index=indices, batch=st.integers(1, 32))
def test_one_notification_a_batch_and_only_if_asked(index: int, batch: int) -> None:
    _, front, back = pair(1, "native", index)
    for i in range(batch):
        front.put(Request(READ, i))
    assert front.push(), "a fresh ring asks for the first request"
    for i in range(batch):
        back.take()
        back.respond(i, READ, 0)
    assert back.push(), "a fresh ring asks for the first response"
    for i in range(batch):
        front.take()
        front.put(Request(READ, i))
    assert not front.push(), "the backend has not asked again"
    for i in range(batch):
        back.take()
        back.respond(i, READ, 0)
    assert not back.push(), "the frontend has not asked again"


def test_the_frontend_cannot_move_what_the_backend_has_published() -> None:
    memory, front, back = pair()
    front.put(Request(READ, 1))
    front.push()
    back.take()
    poke(memory, RSP_PROD, 12345)
    back.respond(1, READ, 0)
    back.push()
    assert back.shared_rsp_prod() == 1


def test_the_backend_cannot_make_the_frontend_read_what_was_not_answered() -> None:
    memory, front, _ = pair()
    front.put(Request(READ, 1))
    poke(memory, RSP_PROD, 2)
    with pytest.raises(OSError):
        front.pending()


def test_a_full_ring_takes_no_more() -> None:
    _, front, _ = pair()
    for i in range(32):
        front.put(Request(READ, i))
    assert front.free() == 0
    with pytest.raises(OSError):
        front.put(Request(READ, 99))


def test_what_does_not_fit_a_request_is_not_put() -> None:
    _, front, _ = pair()
    for request in Request(READ, 1, 0, ((1, 0, 7),) * 12), Request(INDIRECT, 1, grefs=(1,) * 9):
        with pytest.raises(ValueError):
            front.put(request)

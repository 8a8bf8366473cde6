"""The buffers of a ring: bounded, aligned, never two owners of a page, all of it free again in the end."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xenvbd.dataplane.arena import Arena

PAGE, MIB = 4096, 1 << 20


@pytest.mark.parametrize(("length", "pages"), [(1, 1), (512, 1), (4096, 1), (4097, 2), (8193, 4), (44 * 1024, 16),
                                               (MIB - 1, 256), (MIB, 256)])
def test_a_block_is_a_power_of_two_of_pages_and_lies_on_a_multiple_of_its_size(length: int, pages: int) -> None:
    arena = Arena(2 * MIB)
    first, second = arena.take(length), arena.take(length)
    assert arena.used == 2 * pages * PAGE
    assert first % pages == second % pages == 0
    assert abs(first - second) >= pages


def test_the_size_is_rounded_up_so_that_the_largest_request_fits() -> None:
    assert len(Arena(1).view()) == 2 * MIB
    assert len(Arena(2 * MIB + 1).view()) == 4 * MIB


def test_fresh_memory_is_zero_and_so_is_trimmed_memory() -> None:
    arena = Arena(2 * MIB)
    page = arena.take(PAGE)
    arena.view()[page * PAGE:(page + 1) * PAGE] = b"\xa5" * PAGE
    arena.give(page, PAGE)
    arena.trim()
    assert bytes(arena.view()) == bytes(2 * MIB)


def test_the_last_block_given_back_is_the_next_one_taken() -> None:
    arena = Arena(2 * MIB)
    blocks = [arena.take(PAGE) for _ in range(5)]
    for block in blocks:
        arena.give(block, PAGE)
    assert arena.take(PAGE) == blocks[-1]


def test_small_blocks_merge_when_a_large_one_is_needed() -> None:
    arena = Arena(2 * MIB)
    pages = [arena.take(PAGE) for _ in range(512)]
    assert sorted(pages) == list(range(512))
    assert arena.take(PAGE) is None
    for page in pages:
        arena.give(page, PAGE)
    assert sorted([arena.take(MIB), arena.take(MIB)]) == [0, 256]


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(1, MIB), st.integers(0, 1 << 30)), max_size=200))
@settings(max_examples=100)
def test_no_page_has_two_owners_and_nothing_gets_lost(steps) -> None:
    arena, held = Arena(4 * MIB), []
    for take, length, choice in steps:
        if take:
            page = arena.take(length)
            if page is not None:
                pages = 1 << ((length - 1) >> 12).bit_length()
                span = range(page, page + pages)
                assert span.stop <= 1024
                assert not any(set(span) & set(other) for other, _ in held)
                held.append((span, length))
        elif held:
            span, length = held.pop(choice % len(held))
            arena.give(span.start, length)
        assert arena.used == sum(len(span) for span, _ in held) * PAGE
    for span, length in held:
        arena.give(span.start, length)
    assert None not in [arena.take(MIB) for _ in range(4)]

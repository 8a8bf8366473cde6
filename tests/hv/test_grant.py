"""Grants: what a backend may do with a guest's pages, and the status it gets for what it may not."""
import errno
import gc
from contextlib import contextmanager

import pytest

from xenvbd.errors import HypervisorError
from xenvbd.hv import grant

PAGE = 4096
OKAY, GENERAL_ERROR, BAD_DOMAIN, BAD_GNTREF, BAD_PAGE, BAD_COPY_ARG = 0, -1, -2, -3, -9, -10


@contextmanager
def refused(code):
    with pytest.raises(HypervisorError) as caught:
        yield
    assert caught.value.errno == code


@pytest.fixture
def page(sharer):
    """A page of domain 1 that domain 0 may write, full of the bytes 0..255."""
    with sharer.share(0, 1) as page:
        memoryview(page)[:] = bytes(range(256)) * 16
        yield page


# -- Sharing

def test_shared_pages_are_zero_and_each_has_a_gref(sharer):
    with sharer.share(0, 5) as pages:
        assert len(set(pages.refs)) == pages.count == 5
        assert bytes(memoryview(pages)) == bytes(5 * PAGE)


def test_reserved_grefs_are_never_given_out(sharer):
    with sharer.share(0, 8) as pages:
        assert min(pages.refs) >= 8


def test_a_page_shared_again_has_nothing_left_of_what_was_in_it(sharer, machine):
    with sharer.share(0, 1) as first:
        memoryview(first)[:5] = b"ghost"
        gref = first.refs[0]
    assert bytes(machine.memory(1, gref))[:5] == bytes(5)


def test_a_gref_that_was_given_back_is_not_used_again_soon(sharer):
    with sharer.share(0, 1) as first:
        stale = first.refs[0]
    with sharer.share(0, 100) as later:
        assert stale not in later.refs


def test_unsharing_revokes(sharer, table, page):
    gref = page.refs[0]
    page.unshare()
    assert table.try_read(1, gref, 0, bytearray(1)) == GENERAL_ERROR
    page.unshare()                          # again: nothing


def test_pages_run_out_and_come_back(sharer):
    with sharer.share(0, 262144 - 8) as most:
        assert most.count == 262136
        with refused(errno.ENOSPC):
            sharer.share(0, 1)
    assert sharer.share(0, 1).count == 1


@pytest.mark.parametrize("count", [0, 262145])
def test_an_absurd_number_of_pages_is_refused(sharer, count):
    with refused(errno.EINVAL):
        sharer.share(0, count)


# -- Copy

def test_a_copy_moves_exactly_those_bytes_from_the_page(table, page):
    into = bytearray(b"x" * 12)
    assert table.try_read(1, page.refs[0], 250, memoryview(into)[1:11]) == OKAY
    assert into == b"x" + bytes([250, 251, 252, 253, 254, 255, 0, 1, 2, 3]) + b"x"


def test_a_copy_moves_exactly_those_bytes_to_the_page(table, page):
    before = bytes(memoryview(page))
    table.write(1, page.refs[0], 4090, b"sector")
    assert bytes(memoryview(page)) == before[:4090] + b"sector"


def test_a_whole_page_goes_both_ways(table, page):
    data = bytes(range(255, -1, -1)) * 16
    table.write(1, page.refs[0], 0, data)
    assert table.read(1, page.refs[0]) == data


def test_a_copy_of_nothing_is_fine(table, page):
    assert table.try_read(1, page.refs[0], 4096, bytearray()) == OKAY


@pytest.mark.parametrize(("offset", "length"), [(4096, 1), (1, 4096), (4095, 2), (65535, 1)])
def test_a_copy_beyond_the_page_is_refused(table, page, offset, length):
    assert table.try_read(1, page.refs[0], offset, bytearray(length)) == BAD_COPY_ARG
    assert table.try_write(1, page.refs[0], offset, bytes(length)) == BAD_COPY_ARG


@pytest.mark.parametrize("gref", [0, 1, 12345, 262143])
def test_a_gref_that_was_never_granted_is_refused(table, gref):
    assert table.try_read(1, gref, 0, bytearray(1)) == GENERAL_ERROR


@pytest.mark.parametrize("gref", [262144, 2**31, 2**32 - 1])
def test_a_gref_beyond_the_table_is_a_bad_one(table, gref):
    assert table.try_read(1, gref, 0, bytearray(1)) == BAD_GNTREF


@pytest.mark.parametrize("domid", [7, 0x7fef, 0x7ff0, 0xffff])
def test_a_domain_that_is_not_there_is_a_bad_one(table, domid):
    assert table.try_read(domid, 8, 0, bytearray(1)) == BAD_DOMAIN


def test_a_page_for_another_domain_is_refused(machine, sharer, page):
    machine.add_domain(2)
    with grant.GrantTable(machine.join(2)) as stranger:
        assert stranger.try_read(1, page.refs[0], 0, bytearray(1)) == GENERAL_ERROR


def test_a_read_only_page_can_be_read_and_not_written(table, sharer):
    with sharer.share(0, 1, writable=False) as page:
        memoryview(page)[:4] = b"data"
        assert table.read(1, page.refs[0], 0, 4) == b"data"
        assert table.try_write(1, page.refs[0], 0, b"evil") == GENERAL_ERROR
        assert bytes(memoryview(page)[:4]) == b"data"


def test_a_revoked_page_is_refused(machine, table, page):
    machine.revoke(1, page.refs[0])
    assert table.try_read(1, page.refs[0], 0, bytearray(1)) == GENERAL_ERROR


def test_a_page_that_became_read_only_is_refused_for_writing(machine, table, page):
    machine.set_readonly(1, page.refs[0])
    assert table.try_write(1, page.refs[0], 0, b"x") == GENERAL_ERROR
    machine.set_readonly(1, page.refs[0], False)
    assert table.try_write(1, page.refs[0], 0, b"x") == OKAY


def test_a_grant_of_no_memory_is_a_bad_page(machine, table):
    machine.grant(1, 8, 0, frame=2**32 - 1)
    assert table.try_read(1, 8, 0, bytearray(1)) == BAD_PAGE


def test_the_reserved_grefs_can_be_granted_by_the_toolstack(machine, table):
    machine.grant(1, 1, 0)
    machine.memory(1, 1)[:5] = b"xenst"
    assert table.read(1, 1, 0, 5) == b"xenst"


def test_two_grefs_may_name_one_page(machine, table, page):
    machine.grant(1, 2, 0, frame=page.refs[0])
    table.write(1, 2, 0, b"alias")
    assert table.read(1, page.refs[0], 0, 5) == b"alias"


def test_a_removed_domain_is_gone_even_for_a_table_that_knew_it(machine, table, page):
    assert table.try_read(1, page.refs[0], 0, bytearray(1)) == OKAY
    machine.remove_domain(1)
    assert table.try_read(1, page.refs[0], 0, bytearray(1)) == BAD_DOMAIN
    machine.add_domain(1)
    assert table.try_read(1, page.refs[0], 0, bytearray(1)) == GENERAL_ERROR


def test_an_error_names_gref_domain_and_status(table):
    with pytest.raises(HypervisorError, match="gref 5 of domain 1: GNTST_general_error"):
        table.read(1, 5)


# -- Map

def test_mapped_pages_lie_side_by_side_in_the_order_asked_for(table, sharer):
    with sharer.share(0, 3) as pages, table.map(1, pages.refs[::-1]) as mapping:
        for number in range(3):
            memoryview(pages)[number * PAGE] = number + 1
        assert [memoryview(mapping)[number * PAGE] for number in range(3)] == [3, 2, 1]
        memoryview(mapping)[PAGE + 9] = 77
        assert memoryview(pages)[PAGE + 9] == 77


def test_one_gref_can_be_mapped_twice(table, page):
    with table.map(1, [page.refs[0]] * 2) as mapping:
        memoryview(mapping)[0] = 200
        assert memoryview(mapping)[PAGE] == 200


def test_a_read_only_page_can_be_mapped_for_reading_only(table, sharer):
    with sharer.share(0, 1, writable=False) as page:
        with refused(errno.EINVAL):
            table.map(1, page.refs)
        with table.map(1, page.refs, writable=False) as mapping:
            assert memoryview(mapping).readonly


@pytest.mark.parametrize(("domid", "gref"), [(1, 5), (1, 2**32 - 1), (9, 8), (0, 8)])
def test_one_bad_gref_and_nothing_is_mapped(machine, table, page, domid, gref):
    with refused(errno.EINVAL):
        table.map(domid, [*page.refs, gref])
    assert machine.mappings(1) == []


def test_no_grefs_are_no_mapping(table):
    with refused(errno.EINVAL):
        table.map(1, [])


def test_a_mapping_outlives_revocation_and_its_page_is_not_used_again(machine, table, sharer):
    page = sharer.share(0, 1)
    with table.map(1, page.refs) as mapping:
        machine.revoke(1, page.refs[0])
        memoryview(mapping)[0] = 1          # no fault
        page.unshare()
        with sharer.share(0, 262000) as rest:
            assert page.refs[0] not in rest.refs
        memoryview(mapping)[0] = 2
        with refused(errno.EINVAL):
            table.map(1, page.refs)


def test_a_mapping_outlives_the_domain_and_is_still_counted(machine, table, page):
    with table.map(1, page.refs) as mapping:
        machine.remove_domain(1)
        assert memoryview(mapping)[255] == 255
        assert len(machine.mappings(1)) == 1
    assert machine.mappings(1) == []


def test_a_bound_on_mappings_is_kept(table, sharer):
    table.set_max_grants(2)
    with sharer.share(0, 3) as pages:
        with table.map(1, pages.refs[:2]), refused(errno.ENOMEM):
            table.map(1, pages.refs[2:])
        with table.map(1, pages.refs[1:]):
            pass


# -- Ownership

def test_closing_the_table_unmaps(machine, page):
    with grant.GrantTable(machine.join(0)) as table:
        mapping = table.map(1, page.refs)
        assert len(machine.mappings(1)) == 1
    assert machine.mappings(1) == []
    mapping.unmap()                         # again: nothing
    with refused(errno.EBADF):
        memoryview(mapping)


def test_a_forgotten_mapping_is_unmapped(machine, table, page):
    table.map(1, page.refs)
    assert machine.mappings(1) == []


def test_handles_that_die_in_a_cycle_are_closed_in_order(machine, page):
    cycle = [grant.GrantTable(machine.join(0))]
    cycle += [cycle, cycle[0].map(1, page.refs)]
    del cycle
    gc.collect()
    assert machine.mappings(1) == []


def test_pages_in_use_by_a_memoryview_are_not_given_back(table, page):
    mapping = table.map(1, page.refs)
    with memoryview(mapping), refused(errno.EBUSY):
        mapping.unmap()
    mapping.unmap()


def test_a_closed_table_says_so_and_closes_again(table):
    table.close()
    table.close()
    for call in (lambda: table.map(1, [8]), lambda: table.try_read(1, 8, 0, bytearray(1)),
                 lambda: table.set_max_grants(1)):
        with refused(errno.EBADF):
            call()

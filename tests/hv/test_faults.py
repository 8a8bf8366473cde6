"""Faults that tests arm: each operation can be made to fail, in every process of the machine."""
import errno
from contextlib import contextmanager

import pytest

from xenvbd.errors import HypervisorError
from xenvbd.hv import evtchn, grant

OKAY, GENERAL_ERROR, EAGAIN = 0, -1, -12


@contextmanager
def refused(code):
    with pytest.raises(HypervisorError) as caught:
        yield
    assert caught.value.errno == code


@pytest.fixture
def page(sharer):
    with sharer.share(0, 1) as page:
        memoryview(page)[:4] = b"data"
        yield page


def test_the_chosen_segment_fails_and_the_others_do_not(machine, table, page):
    machine.inject("copy", 2, EAGAIN)
    statuses = [table.try_read(1, page.refs[0], 0, bytearray(4)) for _ in range(5)]
    assert statuses == [OKAY, OKAY, EAGAIN, OKAY, OKAY]
    assert machine.fault_hits == 1


def test_a_failed_copy_copies_nothing(machine, table, page):
    machine.inject("copy", 0, GENERAL_ERROR)
    assert table.try_write(1, page.refs[0], 0, b"evil") == GENERAL_ERROR
    assert bytes(memoryview(page)[:4]) == b"data"


def test_a_lying_copy_says_okay_and_copies_nothing(machine, table, page):
    """XSA-318: the grant copy that returned success having done nothing."""
    machine.inject("copy-lie", 0, 0)
    into = bytearray(b"mine")
    assert table.try_read(1, page.refs[0], 0, into) == OKAY
    assert into == b"mine"


def test_a_failed_call_leaves_every_status_an_error(machine, table, page):
    machine.inject("copy-call", 0, -errno.ENOMEM)
    with refused(errno.ENOMEM):
        table.try_read(1, page.refs[0], 0, bytearray(4))


def test_a_fault_lasts_as_long_as_asked_for(machine, table, page):
    machine.inject("copy", 1, GENERAL_ERROR, 2)
    statuses = [table.try_read(1, page.refs[0], 0, bytearray(1)) for _ in range(5)]
    assert statuses == [OKAY, GENERAL_ERROR, GENERAL_ERROR, OKAY, OKAY]


def test_a_fault_may_last_until_it_is_cleared(machine, table, page):
    machine.inject("copy", 0, GENERAL_ERROR, 0)
    assert {table.try_read(1, page.refs[0], 0, bytearray(1)) for _ in range(10)} == {GENERAL_ERROR}
    machine.clear_faults()
    assert table.try_read(1, page.refs[0], 0, bytearray(1)) == OKAY
    assert machine.fault_hits == 10


def test_a_fault_may_be_for_one_domain(machine):
    machine.inject("open", 0, -errno.ENOMEM, 0, domid=1)
    grant.GrantTable(machine.join(0))
    with refused(errno.ENOMEM):
        grant.GrantTable(machine.join(1))


@pytest.mark.parametrize("handle", [evtchn.EventChannels, grant.GrantTable, grant.GrantSharer])
def test_every_handle_can_fail_to_open(machine, handle):
    machine.inject("open", 0, -errno.EMFILE)
    with refused(errno.EMFILE):
        handle(machine.join(0))
    handle(machine.join(0)).close()


def test_mapping_and_unmapping_can_fail(machine, table, page):
    machine.inject("map", 0, -errno.ENOMEM)
    with refused(errno.ENOMEM):
        table.map(1, page.refs)
    assert machine.mappings(1) == []
    mapping = table.map(1, page.refs)
    machine.inject("unmap", 0, -errno.EINTR)
    with refused(errno.EINTR):
        mapping.unmap()
    assert len(machine.mappings(1)) == 1
    mapping.unmap()
    assert machine.mappings(1) == []


def test_sharing_and_unsharing_can_fail(machine, sharer):
    machine.inject("share", 0, -errno.ENOSPC)
    with refused(errno.ENOSPC):
        sharer.share(0, 1)
    page = sharer.share(0, 1)
    machine.inject("unshare", 0, -errno.EINTR)
    with refused(errno.EINTR):
        page.unshare()
    page.unshare()
    assert machine.grants(1) == []


def test_binding_and_unbinding_can_fail(machine, back, front):
    port = front.bind_unbound(0)
    machine.inject("bind", 0, -errno.EINVAL)
    with refused(errno.EINVAL):
        back.bind_interdomain(1, port)
    ours = back.bind_interdomain(1, port)
    machine.inject("unbind", 0, -errno.EINTR)
    with refused(errno.EINTR):
        back.unbind(ours)
    back.unbind(ours)
    assert machine.ports(0) == []


def test_a_notification_can_fail_or_get_lost(machine, back, front):
    port = front.bind_unbound(0)
    ours = back.bind_interdomain(1, port)
    back.unmask(back.pending())
    machine.inject("notify", 0, -errno.ENOTCONN)
    with refused(errno.ENOTCONN):
        front.notify(port)
    machine.inject("notify-lost", 0, 0)
    front.notify(port)
    assert back.pending() is None
    front.notify(port)
    assert back.pending() == ours


def test_an_unmask_can_fail_and_the_port_stays_masked(machine, back, front):
    port = front.bind_unbound(0)
    ours = back.bind_interdomain(1, port)
    assert back.pending() == ours
    machine.inject("unmask", 0, -errno.EIO)
    with refused(errno.EIO):
        back.unmask(ours)
    front.notify(port)
    assert back.pending() is None


def test_a_fault_takes_effect_in_other_processes(machine, spawn):
    peer = spawn(1, """
say("ready"); hear()
try: grant.GrantSharer(me).share(0, 1)
except OSError as exc: say(exc.errno)
""")
    assert peer.hear() == ["ready"]
    machine.inject("share", 0, -errno.EDQUOT)
    peer.say("go")
    assert peer.numbers() == [errno.EDQUOT]
    assert machine.fault_hits == 1


def test_there_is_no_such_fault_and_there_are_not_so_many(machine):
    with pytest.raises(ValueError, match="none of open, bind"):
        machine.inject("cpoy", 0, -1)
    with refused(errno.ENOSPC):
        for _ in range(100):
            machine.inject("copy", 0, -1)

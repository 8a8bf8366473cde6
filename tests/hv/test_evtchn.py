"""Event channels: Xen's rules for ports, and /dev/xen/evtchn's for events, as a backend relies on them."""
import errno
import os
from contextlib import contextmanager

import pytest

from xenvbd.errors import HypervisorError
from xenvbd.hv import evtchn


@contextmanager
def refused(code):
    with pytest.raises(HypervisorError) as caught:
        yield
    assert caught.value.errno == code


@pytest.fixture
def pair(back, front):
    """A bound channel: (frontend's port, backend's port), the first event taken."""
    theirs = front.bind_unbound(0)
    ours = back.bind_interdomain(1, theirs)
    assert back.pending() == ours
    back.unmask(ours)
    return theirs, ours


# -- Binding

def test_a_port_is_unbound_until_the_domain_it_waits_for_binds_to_it(machine, back, front):
    port = front.bind_unbound(0)
    assert machine.ports(1)[0][:3] == (port, "unbound", 0)
    ours = back.bind_interdomain(1, port)
    assert machine.ports(1)[0][:4] == (port, "interdomain", 0, ours)
    assert machine.ports(0)[0][:4] == (ours, "interdomain", 1, port)


def test_port_zero_is_never_given_out(front):
    assert min(front.bind_unbound(0) for _ in range(10)) > 0


def test_binding_makes_our_end_pending_at_once(back, front, readable):
    ours = back.bind_interdomain(1, front.bind_unbound(0))
    assert readable(back)
    assert back.pending() == ours
    assert not readable(front)


@pytest.mark.parametrize("port", [0, 7, 4095, 4096, 2**31, 2**32 - 1])
def test_a_port_that_does_not_wait_for_anyone_cannot_be_bound(back, port):
    with refused(errno.EINVAL):
        back.bind_interdomain(1, port)


def test_a_bound_port_cannot_be_bound_again(back, pair):
    with refused(errno.EINVAL):
        back.bind_interdomain(1, pair[0])


def test_a_port_for_another_domain_cannot_be_bound(machine, back, front):
    machine.add_domain(2)
    port = front.bind_unbound(2)
    with refused(errno.EINVAL):
        back.bind_interdomain(1, port)


def test_a_domain_that_is_not_there_cannot_be_bound_to(back):
    with refused(errno.ESRCH):
        back.bind_interdomain(9, 1)


def test_a_restricted_handle_binds_to_its_domain_only(machine, back, front):
    machine.add_domain(2)
    port = front.bind_unbound(0)
    back.restrict_domid(1)
    with refused(errno.EACCES):
        back.bind_interdomain(2, 1)
    with refused(errno.EACCES):
        back.bind_unbound(1)
    assert back.bind_interdomain(1, port)


def test_a_restriction_is_for_good_and_never_to_domain_zero(back, front):
    with refused(errno.EINVAL):
        front.restrict_domid(0)
    back.restrict_domid(1)
    with refused(errno.EACCES):
        back.restrict_domid(1)


def test_ports_run_out_and_come_back(front):
    ports = []
    with refused(errno.ENOSPC):
        while True:
            ports.append(front.bind_unbound(0))
    assert len(ports) == 4095
    front.unbind(ports[100])
    assert front.bind_unbound(0) == ports[100]


def test_a_domain_can_bind_to_itself(back):
    first = back.bind_unbound(0)
    second = back.bind_interdomain(0, first)
    assert back.pending() == second
    back.notify(second)
    assert back.pending() == first


# -- Closing

def test_closing_one_end_leaves_the_other_unbound_for_the_same_domain(machine, back, pair):
    back.unbind(pair[1])
    assert machine.ports(0) == []
    assert machine.ports(1)[0][:3] == (pair[0], "unbound", 0)


def test_an_end_left_behind_can_be_bound_again_and_starts_pending(back, front, pair, wait):
    back.unbind(pair[1])
    front.notify(pair[0])               # nobody hears it
    ours = back.bind_interdomain(1, pair[0])
    assert wait(back) == ours
    back.unmask(ours)
    front.notify(pair[0])
    assert wait(back) == ours


def test_closing_the_handle_closes_its_ports(machine, front):
    with evtchn.EventChannels(machine.join(0)) as back:
        back.bind_interdomain(1, front.bind_unbound(0))
    assert machine.ports(0) == []
    assert machine.ports(1)[0].state == "unbound"


def test_a_port_of_another_handle_is_not_ours(machine, back, pair):
    with evtchn.EventChannels(machine.join(0)) as other:
        for call in (other.notify, other.unbind):
            with refused(errno.ENOTCONN):
                call(pair[1])
        other.unmask(pair[1])           # the device ignores it
    with refused(errno.EINVAL):
        back.unbind(4096)


def test_a_removed_domain_leaves_our_end_unbound(machine, back, pair, front):
    machine.remove_domain(1)
    assert machine.ports(0)[0][:3] == (pair[1], "unbound", 1)
    back.notify(pair[1])                # dropped
    with refused(errno.ENODEV):
        front.bind_unbound(0)


def test_a_new_domain_with_the_old_number_has_none_of_the_old_ports(machine, back, pair):
    machine.remove_domain(1)
    machine.add_domain(1)
    assert machine.ports(1) == []
    with refused(errno.EINVAL):
        back.bind_interdomain(1, pair[0])
    with evtchn.EventChannels(machine.join(1)) as front:
        assert front.bind_interdomain(0, pair[1])


def test_a_closed_handle_says_so_and_closes_again(back):
    back.close()
    back.close()
    for call in (back.fileno, back.pending, lambda: back.notify(1)):
        with refused(errno.EBADF):
            call()


# -- Handing a handle to another process

def test_a_shared_handle_binds_as_the_one_it_came_from_may(machine, front):
    machine.add_domain(2)
    with evtchn.EventChannels(machine.join(2)) as other:
        ports = front.bind_unbound(0), other.bind_unbound(0)
        for fd in evtchn.offer(machine.join(0), 1, 2):
            with evtchn.EventChannels(machine.join(0), fd) as channels:
                with refused(errno.EACCES):
                    channels.bind_interdomain(2, ports[1])
                with refused(errno.EACCES):
                    channels.restrict_domid(2)
                assert channels.bind_interdomain(1, ports[0])
            os.close(fd)


def test_a_handle_for_domain_0_cannot_be_confined_and_works(machine, back):
    [fd] = evtchn.offer(machine.join(0), 0, 1)
    with evtchn.EventChannels(machine.join(0), fd) as channels:
        assert channels.bind_interdomain(0, back.bind_unbound(0))
    os.close(fd)


def test_handles_that_cannot_all_be_had_are_none(machine):
    before = os.listdir("/proc/self/fd")
    machine.inject("open", 2, -errno.EMFILE)
    with refused(errno.EMFILE):
        evtchn.offer(machine.join(0), 1, 3)
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_what_is_no_handle_is_refused(machine):
    with open("/dev/null") as file, refused(errno.EINVAL):
        evtchn.EventChannels(machine.join(0), file.fileno())


def test_a_closed_handle_is_not_shared(back):
    back.close()
    with refused(errno.EBADF):
        back.share()


# -- Events

def test_a_notification_makes_the_other_end_pending(back, front, pair, readable):
    front.notify(pair[0])
    assert readable(back)
    assert back.pending() == pair[1]
    assert not readable(back)
    assert back.pending() is None


def test_a_port_stays_masked_until_it_is_unmasked(back, front, pair, readable):
    front.notify(pair[0])
    assert back.pending() == pair[1]
    front.notify(pair[0])
    assert not readable(back)
    assert back.pending() is None
    back.unmask(pair[1])
    assert readable(back)
    assert back.pending() == pair[1]


def test_a_hundred_notifications_are_one_event(back, front, pair):
    for _ in range(100):
        front.notify(pair[0])
    assert back.pending() == pair[1]
    back.unmask(pair[1])
    assert back.pending() is None


def test_unmasking_without_a_new_event_delivers_nothing(back, front, pair, readable):
    back.unmask(pair[1])
    assert not readable(back)


def test_a_notification_to_nobody_is_dropped(front, readable):
    port = front.bind_unbound(0)
    front.notify(port)
    assert not readable(front)


def test_the_descriptor_is_readable_until_the_last_pending_port_is_taken(back, front, readable):
    theirs = [front.bind_unbound(0) for _ in range(20)]
    ours = [back.bind_interdomain(1, port) for port in theirs]
    taken = []
    while readable(back):
        taken.append(back.pending())
    assert sorted(taken) == sorted(ours)
    assert back.pending() is None


def test_every_pending_port_has_its_turn(back, front):
    theirs = [front.bind_unbound(0) for _ in range(3)]
    ours = {back.bind_interdomain(1, port) for port in theirs}
    taken = []
    for _ in range(6):
        taken.append(back.pending())
        back.unmask(taken[-1])
        for port in theirs:
            front.notify(port)
    assert set(taken[:3]) == set(taken[3:]) == ours


def test_unbinding_one_port_leaves_the_events_of_the_others(back, front, wait):
    theirs = [front.bind_unbound(0) for _ in range(3)]
    ours = [back.bind_interdomain(1, port) for port in theirs]
    back.unbind(ours[0])
    assert {wait(back), wait(back)} == set(ours[1:])
    for port in ours[1:]:
        back.unmask(port)
    front.notify(theirs[2])
    assert wait(back) == ours[2]


def test_events_go_both_ways(back, front, pair, wait):
    back.notify(pair[1])
    assert wait(front) == pair[0]

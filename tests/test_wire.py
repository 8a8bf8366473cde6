"""Messages between manager and worker: bounded, non-blocking, and no descriptor is ever lost."""
import errno
import json
import os
import socket

import pytest

from xenvbd.wire import MAX_FDS, MAX_MESSAGE, MAX_QUEUE, Message, Wire


def descriptor() -> int:
    return os.memfd_create("test")


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def ends():
    left, right = (Wire(sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    before = len(os.listdir("/proc/self/fd"))
    yield left, right
    assert len(os.listdir("/proc/self/fd")) <= before, "a descriptor was left open"
    left.close()
    right.close()


def test_a_message_arrives_with_its_descriptors_and_they_have_left_the_sender(ends):
    left, right = ends
    fd = descriptor()
    inode = os.fstat(fd).st_ino
    left.send({"verb": "connect"}, [fd])
    assert not is_open(fd)
    message = right.receive()
    assert message.body == {"verb": "connect"}
    [received] = message.take_fds()
    assert os.fstat(received).st_ino == inode
    assert os.get_inheritable(received) is False
    os.close(received)


def test_descriptors_that_nobody_took_are_closed_with_the_message(ends):
    left, right = ends
    left.send({}, [descriptor(), descriptor()])
    right.receive().close()


def test_receive_returns_none_when_there_is_nothing(ends):
    assert ends[1].receive() is None


def test_a_closed_peer_is_an_end_of_file(ends):
    ends[0].close()
    with pytest.raises(EOFError):
        ends[1].receive()


@pytest.mark.parametrize("body, fds", [({"long": "x" * MAX_MESSAGE}, 1), ({}, MAX_FDS + 1)])
def test_what_is_too_much_is_refused_and_its_descriptors_closed(ends, body, fds):
    with pytest.raises(OSError) as caught:
        ends[0].send(body, [descriptor() for _ in range(fds)])
    assert caught.value.errno == errno.EMSGSIZE


def test_a_peer_that_does_not_read_fills_a_bounded_queue_and_then_gets_everything_in_order(ends):
    left, right = ends
    waiting = []
    left.on_pending = waiting.append
    sent = 0
    with pytest.raises(OSError) as caught:
        while True:
            left.send({"n": sent, "pad": "x" * 8000}, [descriptor()])
            sent += 1
    assert caught.value.errno == errno.ENOBUFS
    assert left.pending == MAX_QUEUE and waiting == [True]
    received = []
    while len(received) < sent:
        left.flush()
        while message := right.receive():
            received.append(message.body["n"])
            message.close()
    assert received == list(range(sent)) and waiting == [True, False]


def test_descriptors_that_wait_in_the_queue_are_closed_with_the_wire():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = len(os.listdir("/proc/self/fd"))
    wire = Wire(left)
    while not wire.pending:
        wire.send({"pad": "x" * 60000}, [descriptor()])
    wire.close()
    right.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_sending_to_a_dead_peer_fails_and_leaves_no_descriptor(ends):
    ends[1].close()
    with pytest.raises(BrokenPipeError):
        ends[0].send({}, [descriptor()])


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b"[" * 60000, b"x" * (MAX_MESSAGE + 100)],
                         ids=["half", "list", "binary", "nested", "long"])
def test_garbage_is_a_protocol_error_and_its_descriptors_are_closed(data):
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire = Wire(other)
    before = len(os.listdir("/proc/self/fd"))
    fd = descriptor()
    socket.send_fds(raw, [data], [fd])
    os.close(fd)
    with pytest.raises(OSError) as caught:
        wire.receive()
    assert caught.value.errno == errno.EPROTO
    assert len(os.listdir("/proc/self/fd")) == before
    wire.close()
    raw.close()


def test_more_descriptors_than_allowed_are_a_protocol_error_and_all_are_closed():
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire = Wire(other)
    fds = [descriptor() for _ in range(MAX_FDS + 10)]
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(raw, [json.dumps({}).encode()], fds)
    with pytest.raises(OSError) as caught:
        wire.receive()
    assert caught.value.errno == errno.EPROTO
    assert len(os.listdir("/proc/self/fd")) == before
    for fd in fds:
        os.close(fd)
    wire.close()
    raw.close()


def test_a_message_made_without_descriptors_closes_to_nothing():
    Message({}).close()

"""The control socket: requests and replies, and what a bad client can hold of the daemon."""
import errno
import json
import os
import socket
import stat
import threading
import time

import pytest

from tests.support import control as support
from xenvbd.control import MAX_CLIENTS, MAX_REQUEST, Client, Server
from xenvbd.errors import ClaimError, ControlError, NoSuchDisk, PropertyError, exit_code


class Daemon(support.Daemon):
    """One that answers, keeps a request, or fails, by the verb."""

    def __init__(self, path, idle=60.0):
        self.held = []
        super().__init__(path, self.dispatch, idle)

    def dispatch(self, verb, params, reply):
        if verb == "echo":
            reply(params)
        elif verb == "hold":
            self.held.append(reply)
        elif verb == "crash":
            raise ZeroDivisionError
        else:
            raise NoSuchDisk(errno.ENOENT, f"no {verb}", disk="web1:xvda")


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(str(tmp_path / "control.sock"))
    yield daemon
    daemon.stop()


def raw(daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(daemon.path)
    return sock


def read_line(sock) -> dict:
    return json.loads(sock.makefile().readline())


def test_a_call_returns_the_verb_s_result(daemon):
    assert Client(daemon.path).call("echo", domain="web1", deep=[1, {"a": None}]) == {
        "domain": "web1", "deep": [1, {"a": None}]}


def test_bytes_that_are_no_utf_8_reach_the_daemon_and_come_back_as_json_that_any_parser_takes(daemon):
    seen = []
    daemon.server.dispatch = lambda verb, params, reply: (seen.append(params), reply(params))
    sock = raw(daemon)
    sock.sendall(b'{"id": 1, "verb": "echo", "params": {"domain": "k\\udcf6ln"}}\n')
    line = sock.makefile("rb").readline()
    assert seen == [{"domain": "k\udcf6ln"}] and b"udcf6" not in line
    assert json.loads(line)["result"] == {"domain": "k\ufffdln"}
    Client(daemon.path).call("echo", domain=os.fsdecode(b"k\xf6ln"))
    assert seen[1] == seen[0]


def test_an_error_is_raised_again_at_the_client_as_what_it_was(daemon):
    with pytest.raises(NoSuchDisk) as caught:
        Client(daemon.path).call("frob")
    assert str(caught.value) == "web1:xvda: no frob" and exit_code(caught.value) == 3


def test_a_fault_of_the_daemon_is_an_error_reply_and_the_daemon_goes_on(daemon):
    with pytest.raises(OSError, match="log"):
        Client(daemon.path).call("crash")
    assert Client(daemon.path).call("echo", a=1) == {"a": 1}


def test_no_daemon_is_a_control_error_that_names_the_next_step(tmp_path):
    with pytest.raises(ControlError, match="xenvbd serve") as caught:
        Client(str(tmp_path / "none")).call("ping")
    assert exit_code(caught.value) == 5


def test_a_daemon_that_does_not_answer_is_a_timeout(daemon):
    with pytest.raises(ControlError) as caught:
        Client(daemon.path, timeout=0.1).call("hold")
    assert exit_code(caught.value) == 4


def test_the_socket_is_the_owner_s_alone(daemon):
    assert stat.S_IMODE(os.stat(daemon.path).st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_is_refused_even_if_the_mode_let_him_in(daemon):
    os.chmod(daemon.path, 0o666)
    os.chmod(os.path.dirname(daemon.path), 0o755)
    reads, writes = os.pipe()
    if (pid := os.fork()) == 0:
        with socket.socket(socket.AF_UNIX) as sock:
            path = os.open(os.path.dirname(daemon.path), os.O_PATH)
            os.setresuid(65534, 65534, 65534)
            sock.connect(f"/proc/self/fd/{path}/control.sock")
            os.write(writes, sock.recv(4096))
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writes)
    reply = json.loads(os.read(reads, 4096))
    os.close(reads)
    assert reply["error"]["errno"] == errno.EPERM and "65534" in reply["error"]["message"]


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"verb": 1}', b'{"verb": "echo", "params": []}', b"\xff\xfe",
                                  b"[" * 50000, b'{"verb":"echo","id":[]}'])
def test_a_bad_request_is_an_error_and_the_connection_lives(daemon, line):
    with raw(daemon) as sock:
        sock.sendall(line + b"\n")
        assert read_line(sock)["error"]["class"] == "PropertyError"
        sock.sendall(b'{"id": 2, "verb": "echo"}\n')
        assert read_line(sock) == {"id": 2, "result": {}}


def test_a_request_that_is_too_long_ends_the_connection(daemon):
    with raw(daemon) as sock:
        sock.sendall(b"x" * (MAX_REQUEST + 2))
        assert read_line(sock)["error"]["message"].startswith("a request of more than")
        assert sock.recv(1) == b""


def test_requests_sent_at_once_are_answered_one_after_the_other(daemon):
    with raw(daemon) as sock:
        sock.sendall(b"".join(b'{"id": %d, "verb": "echo"}\n' % n for n in range(2000)))
        with sock.makefile() as lines:
            assert [json.loads(lines.readline())["id"] for _ in range(2000)] == list(range(2000))


def test_a_client_that_leaves_before_its_reply_harms_nobody(daemon):
    with raw(daemon) as sock:
        sock.sendall(b'{"id": 1, "verb": "hold"}\n')
        wait(lambda: daemon.held)
    daemon.loop.soon(lambda: daemon.held.pop()({"late": True}))
    assert Client(daemon.path).call("echo") == {}


def test_more_clients_than_allowed_are_refused_by_name_and_room_is_made_by_leaving(daemon):
    clients = [raw(daemon) for _ in range(MAX_CLIENTS)]
    wait(lambda: len(daemon.server.clients) == MAX_CLIENTS)
    with raw(daemon) as extra:
        assert read_line(extra)["error"]["errno"] == errno.EBUSY
    for client in clients:
        client.close()
    wait(lambda: not daemon.server.clients)
    assert Client(daemon.path).call("echo") == {}


def test_a_client_that_is_refused_and_gone_already_is_no_failure(daemon):
    clients = [raw(daemon) for _ in range(MAX_CLIENTS)]
    wait(lambda: len(daemon.server.clients) == MAX_CLIENTS)
    going = threading.Event()
    daemon.loop.soon(going.wait)            # so that it has gone before it is accepted
    raw(daemon).close()
    going.set()
    with raw(daemon) as extra:
        assert read_line(extra)["error"]["errno"] == errno.EBUSY
    assert daemon.loop.failures == 0
    for client in clients:
        client.close()


def test_an_idle_client_is_closed_and_one_that_waits_for_its_reply_is_not(tmp_path):
    daemon = Daemon(str(tmp_path / "control.sock"), idle=0.2)
    with raw(daemon) as idle, raw(daemon) as slow, raw(daemon) as waiting:
        slow.sendall(b'{"id"')
        waiting.sendall(b'{"id": 1, "verb": "hold"}\n')
        assert idle.recv(1) == b"" and slow.recv(1) == b""
        daemon.loop.soon(lambda: daemon.held.pop()({"at": "last"}))
        assert read_line(waiting)["result"] == {"at": "last"}
    daemon.stop()


def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path):
    path = str(tmp_path / "control.sock")
    socket.socket(socket.AF_UNIX).bind(path)
    daemon = Daemon(path)
    assert Client(path).call("echo") == {}
    daemon.stop()
    assert not os.path.exists(path)


@pytest.mark.parametrize(("number", "hint"), [
    (errno.EACCES, "only root may use it"), (errno.EPERM, "only root may use it"),
    (errno.ENOENT, "is `xenvbd serve` running"), (errno.ECONNREFUSED, "is `xenvbd serve` running")])
def test_a_daemon_that_cannot_be_reached_is_said_why(tmp_path, monkeypatch, number, hint):
    def refuse(self, path):
        raise OSError(number, "no")

    monkeypatch.setattr("xenvbd.control.socket.socket", type("Refused", (socket.socket,), {"connect": refuse}))
    with pytest.raises(ControlError, match=hint):
        Client(str(tmp_path / "control.sock")).call("echo")


def test_the_socket_of_a_daemon_that_listens_is_not_taken(tmp_path):
    path = str(tmp_path / "control.sock")
    daemon = Daemon(path)
    with pytest.raises(ClaimError, match="another xenvbd listens there"):
        Server(daemon.loop, path, print)
    assert Client(path).call("echo") == {}
    daemon.stop()


def test_a_wrong_property_is_a_usage_error():
    assert exit_code(PropertyError(errno.EINVAL, "no")) == 2


def wait(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)


def test_a_client_that_is_refused_before_it_has_asked_hears_why(tmp_path, monkeypatch):
    gone = threading.Event()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "control.sock"))
    listener.listen()

    def refuse():
        sock, _ = listener.accept()
        sock.send(b'{"id": null, "error": {"class": "ControlError", "errno": 16, "message": "full"}}\n')
        sock.close()
        gone.set()

    class Slow(socket.socket):
        def sendall(self, *arguments):
            assert gone.wait(10)
            super().sendall(*arguments)

    thread = threading.Thread(target=refuse)
    thread.start()
    monkeypatch.setattr("xenvbd.control.socket.socket", Slow)
    with pytest.raises(ControlError, match="full"):
        Client(str(tmp_path / "control.sock")).call("echo")
    thread.join()
    listener.close()

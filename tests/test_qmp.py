"""The monitor answers as QEMU does, as far as libxl asks, and survives what no libxl would say."""
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xenvbd import qmp
from xenvbd.loop import Loop


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """The path of a monitor that runs in a thread."""
    before = len(os.listdir("/proc/self/fd"))
    where, loop = str(tmp_path / "qmp"), Loop()
    monitor = qmp.Monitor(loop, qmp.listen(where), {"add": lambda given: given["a"] + given["b"]})
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield where
    loop.stop()
    thread.join()
    monitor.close()
    loop.close()
    assert len(os.listdir("/proc/self/fd")) <= before and not loop.failures


class Client:
    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")
        self.greeting = self.read()

    def read(self) -> Any:
        return json.loads(self.file.readline())

    def say(self, data: bytes) -> Any:
        self.socket.sendall(data)
        return self.read()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def client(path: str) -> Iterator[Client]:
    made = Client(path)
    yield made
    made.close()


def test_the_socket_is_root_s_alone(path: str) -> None:
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_client_is_greeted_with_a_version(client: Client) -> None:
    assert client.greeting["QMP"]["version"]["qemu"]["major"] >= 2


def test_a_command_is_answered_with_its_id(client: Client) -> None:
    assert client.say(b'{"execute": "add", "arguments": {"a": 1, "b": 2}, "id": 7}\r\n') == {"return": 3, "id": 7}


def test_commands_may_come_in_pieces_or_together(client: Client) -> None:
    client.socket.sendall(b'{"execute": "add", "arguments"')
    assert client.say(b': {"a": 1, "b": 1}}\n{"execute": "add", "arguments": {"a": 2, "b": 2}}\n') == {"return": 2}
    assert client.read() == {"return": 4}


def test_an_unknown_command_and_nonsense_are_errors(client: Client) -> None:
    assert client.say(b'{"execute": "eject", "id": 1}\n')["error"]["class"] == "CommandNotFound"
    for line in (b"nonsense\n", b"[]\n", b'"execute"\n', b'{"execute": "add", "arguments": 1}\n', b"\xff\n"):
        assert client.say(line)["error"]["class"] == "GenericError"


def test_a_client_may_go_and_come_again(path: str) -> None:
    for _ in range(3):
        client = Client(path)
        client.socket.sendall(b'{"execute":')
        client.close()


def test_a_line_without_end_is_cut_off(client: Client) -> None:
    with pytest.raises((ConnectionError, json.JSONDecodeError)):
        client.say(b"x" * (2 * qmp.MAX_LINE))


def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        qmp.listen(str(tmp_path / "left")).close()

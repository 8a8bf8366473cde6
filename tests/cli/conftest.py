"""A daemon for the verbs that ask one: the real control socket, with answers that the test gives."""
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xenvbd import cli
from xenvbd.control import Server
from xenvbd.loop import Loop

Params = dict[str, Any]


class Daemon:
    """answers: verb -> result, error to raise, or a function of the parameters.  asked: what came in."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Params]] = []
        self.loop = Loop()
        self.server = Server(self.loop, path, self.dispatch)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def dispatch(self, verb: str, params: Params, reply: Callable[[Any], None]) -> None:
        self.asked.append((verb, params))
        answer = self.answers[verb]
        reply(answer(params) if callable(answer) else answer)

    def close(self) -> None:
        self.loop.stop()
        self.thread.join()
        self.server.close()
        self.loop.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon at tmp_path/control.sock."""
    one = Daemon(str(tmp_path / "control.sock"))
    yield one
    one.close()


@pytest.fixture
def xenvbd(tmp_path: Path) -> Callable[..., int]:
    """Run the command with that socket; its exit status."""
    def run(*words: str) -> int:
        return cli.main(["--socket", str(tmp_path / "control.sock"), *words])
    return run

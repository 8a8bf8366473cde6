"""The daemon's log on a terminal, in systemd's journal and for programs."""
import json
import logging
import os
import re
from collections.abc import Iterator

import pytest

from xenvbd import cli, logs, trace
from xenvbd.cli import parser, serve

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    """The root logger and the enabled events as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logs._form, logs._level = logs.TEXT, logging.INFO
    trace.enable([])


def set_up(*words: str) -> None:
    options = parser.build().parse_args(["serve", "--config", os.devnull, *words])
    cli.logs.set_up(options, serve.configuration(options))


def test_a_person_reads_time_level_and_message(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    set_up()
    logging.getLogger("xenvbd").warning("a guest wrote %s", "\x1b[2J")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING xenvbd: a guest wrote \\x1b\[2J\n",
                        capsys.readouterr().err)


def test_the_journal_reads_the_level_in_front(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "suitable", lambda: logs.JOURNAL)
    set_up()
    logging.getLogger("xenvbd").error("no")
    assert capsys.readouterr().err == "<3>xenvbd: no\n"


def test_programs_read_json(capsys: Capture) -> None:
    set_up("--json")
    logging.getLogger("xenvbd").info("up")
    assert json.loads(capsys.readouterr().err)["message"] == "up"


def test_quiet_is_warnings_and_the_events_that_were_asked_for(capsys: Capture) -> None:
    set_up("-q", "--json", "--trace", "xen_block_*")
    logging.getLogger("xenvbd").info("up")
    trace.event("xen_block_unrealize", disk="web1:xvda")
    trace.event("xen_bus_enumerate", path="/")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["disk"]) for line in lines] == [("xen_block_unrealize", "web1:xvda")]

"""A log that several processes write has one form: a time and a level in each line, or the journal's own."""
import json
import os
import re
import socket
import subprocess
import sys

import pytest

from tests.support.host import SimHost, wait
from xenvbd import logs

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (INFO|WARNING) xenvbd\.worker: worker 1: confined: .+")
WORKER = """import logging, sys
from xenvbd import logs
logs.follow(sys.argv[1])
logging.warning("a" + chr(10) + "b")
logging.info("c")
"""


def said(word: str) -> str:
    """What a worker of a manager that logs so writes."""
    return subprocess.run([sys.executable, "-c", WORKER, word], capture_output=True, text=True, check=True).stderr


def test_a_worker_s_line_has_date_time_and_level():
    host = SimHost(domids=(0, 1))
    try:
        host.start().attach(1, "mem:1M", wait=False)
        wait(lambda: [line for line in host.text().splitlines() if LINE.fullmatch(line)], host.text)
    finally:
        host.close()


def test_a_worker_logs_in_its_manager_s_form_and_at_its_level():
    assert re.fullmatch(r"\d{4}-.* WARNING root: a\\nb\n\d{4}-.* INFO root: c\n", said("text:20"))
    assert said("journal:20") == "<4>root: a\\nb\n<6>root: c\n"
    assert [json.loads(line)["message"] for line in said("json:30").splitlines()] == ["a\nb"]


def test_the_word_for_a_worker_is_what_was_set_up(monkeypatch):
    monkeypatch.setattr(logs.logging, "basicConfig", lambda **how: None)
    for form, level in ((logs.JSON, 30), (logs.TEXT, 20)):
        logs.set_up(form, level)
        assert logs.word() == f"{form}:{level}"


def stderr_is(monkeypatch, file, stream):
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setenv("JOURNAL_STREAM", stream)


def test_the_journal_s_form_is_for_the_stream_that_the_journal_reads(monkeypatch, tmp_path):
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("w") as file:
        status = os.fstat(file.fileno())
        stderr_is(monkeypatch, file, f"{status.st_dev}:{status.st_ino}")
        assert logs.suitable() == logs.JOURNAL


@pytest.mark.parametrize("stream", ["8:1", "", "journal"])
def test_a_file_gets_times_whatever_the_shell_that_started_us_had(stream, monkeypatch, tmp_path):
    with open(tmp_path / "log", "w") as file:
        stderr_is(monkeypatch, file, stream)
        assert logs.suitable() == logs.TEXT

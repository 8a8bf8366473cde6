"""The guest process: what it prints, how it ends."""
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.frontend.scripted import DEVID
from xenvbd.frontend.guest import main, parser

Lines = list[dict]


class Process:
    """A guest process with --json; lines as they come."""

    def __init__(self, machine, *options: str) -> None:
        command = [sys.executable, "-m", "xenvbd.frontend", "--hypervisor", f"sim:{machine.dir}", "--domid", "5",
                   "--devid", str(DEVID), "--timeout", "5s", "--io-timeout", "5s", "--json", *options]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: Lines = []
        self._timer = threading.Timer(30, self.popen.kill)
        self._timer.start()

    def until(self, event: str) -> dict:
        """Read lines up to that event."""
        for line in self.popen.stdout:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"no {event!r} in {self.lines}, stderr {self.popen.stderr.read()}")

    def finish(self) -> tuple[int, Lines]:
        """Read all, wait: exit status, lines."""
        self.lines += [json.loads(line) for line in self.popen.stdout]
        return self.popen.wait(10), self.lines

    def end(self) -> None:
        self._timer.cancel()
        self.popen.kill()
        self.popen.communicate()


@pytest.fixture
def guest(machine) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(*options: str) -> Process:
        made.append(Process(machine, *options))
        return made[-1]

    yield make
    for process in made:
        process.end()


def named(lines: Lines, event: str) -> Lines:
    return [line for line in lines if line["event"] == event]


def test_a_guest_connects_works_verifies_and_closes(backend, guest) -> None:
    status, lines = guest("--prepare", "--rw", "randrw", "--count", "300", "--digest", "--interval", "20ms").finish()
    assert status == 0, lines
    assert named(lines, "connected")[0]["sectors"] == 2048
    assert named(lines, "result")[0]["ops"] == 300
    assert named(lines, "digest")[0] == {**named(lines, "digest")[0], "verified": 1 << 20, "bytes": 1 << 20,
                                         "sha256": hashlib.sha256(backend.disk).hexdigest()}
    assert {line["phase"] for line in named(lines, "progress")} == {"prepare", "load", "digest"}
    assert [(s["frontend"], s["backend"]) for s in named(lines, "state")][-1] == ("Closed", "Closed")
    assert lines[-1]["event"] == "closed"
    assert backend.saw(5, 6)


def test_the_handshake_is_told_node_by_node(backend, guest) -> None:
    _, lines = guest("--persona", "minios").finish()
    nodes = [line["path"].rpartition("/")[2] for line in named(lines, "node")]
    assert nodes == ["ring-ref", "event-channel", "protocol"]
    assert all(line["since-start"] >= 0 for line in lines)


def test_sigterm_ends_the_load_and_closes_politely(backend, guest) -> None:
    process = guest("--rw", "randread", "--seconds", "60s", "--interval", "50ms")
    process.until("progress")
    process.popen.send_signal(signal.SIGTERM)
    status, lines = process.finish()
    assert (status, lines[-1]["event"]) == (0, "closed")
    assert named(lines, "result")[0]["inflight"] == 0


def test_hold_stays_until_the_backend_closes(backend, guest) -> None:
    process = guest("--hold")
    process.until("connected")
    backend.store.write(f"{backend.back}/state", "5")
    status, lines = process.finish()
    assert (status, lines[-1]["event"]) == (0, "closed")


def test_a_load_ends_when_the_backend_closes(backend, guest) -> None:
    process = guest("--rw", "randwrite", "--seconds", "60s", "--interval", "50ms")
    process.until("progress")
    backend.store.write(f"{backend.back}/state", "5")
    assert process.finish()[0] == 0


def test_when_the_oracle_objects_the_status_is_1_and_the_error_has_the_facts(backend, guest) -> None:
    backend.disk[99 * 512] = 1
    status, lines = guest("--rw", "verify").finish()
    assert status == 1
    error = named(lines, "error")[0]
    assert (error["class"], error["mismatches"], error["facts"]["sector"]) == ("OracleError", 1, 99)


def test_when_no_backend_comes_the_status_is_4(backend_of, guest) -> None:
    backend_of()
    status, lines = guest("--timeout", "100ms").finish()
    assert status == 4
    assert "waited 0.1 s for InitWait" in named(lines, "error")[0]["message"]


def test_a_request_too_large_for_the_disk_is_said_in_words(backend, guest) -> None:
    status, lines = guest("--rw", "read", "--bs", "1M", "--indirect", "0").finish()
    assert status == 1
    assert "bs 1048576 needs more than the 11 segments" in named(lines, "error")[0]["message"]


def test_a_digest_of_what_was_not_remembered_is_refused_as_usage(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--devid", "51712", "--rw", "randwrite", "--no-verify", "--digest"])
    assert "--digest needs --verify" in capsys.readouterr().err


def test_without_json_the_lines_are_for_people(backend, machine) -> None:
    command = [sys.executable, "-m", "xenvbd.frontend", "--hypervisor", f"sim:{machine.dir}", "--domid", "5",
               "--devid", str(DEVID), "--rw", "randread", "--count", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "connected: sectors 2048" in done.stdout
    assert "closed" in done.stdout.splitlines()[-1]


def test_every_option_says_what_it_is() -> None:
    unexplained = {"--iodepth", "--abi", "--seed", "--help", "--version"}
    for action in parser()._actions:
        assert action.help or set(action.option_strings) & unexplained, action.option_strings

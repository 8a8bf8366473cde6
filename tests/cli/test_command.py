"""The command as a process: its streams, its arguments byte for byte, and errors for programs."""
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DISK = {"disk": "web1:xvda", "domid": 7, "name": "xvda", "size": None, "state": {}}
COMMAND = [sys.executable, "-m", "xenvbd.cli"]


def run(tmp_path: Path, *words: str | bytes, shell: str = '"$@"', **environment: str) -> Any:
    """The command, by a shell that may close a stream of it."""
    return subprocess.run(["bash", "-c", shell, "bash", *COMMAND, "--socket", str(tmp_path / "control.sock"), *words],
                          capture_output=True, check=False, timeout=60, env=os.environ | environment)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_stream_that_is_closed_is_one_that_nobody_reads(closed: str, tmp_path: Path, daemon: Any) -> None:
    daemon.answers["list"] = {"disks": [DISK]}
    done = run(tmp_path, "list", shell=f'"$@" {closed}')
    assert done.returncode == 0 and b"error" not in done.stderr


def test_an_error_of_a_closed_stderr_is_not_written_elsewhere(tmp_path: Path) -> None:
    done = run(tmp_path, "list", shell='"$@" 2>&-')
    assert (done.returncode, done.stdout, done.stderr) == (5, b"", b"")


def test_an_output_that_takes_nothing_is_an_error_in_one_line(tmp_path: Path, daemon: Any) -> None:
    daemon.answers["list"] = {"disks": [DISK]}
    done = run(tmp_path, "list", shell='"$@" >/dev/full')
    assert done.returncode == 1 and done.stderr == b"xenvbd: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "de_DE.ISO-8859-1"])
def test_a_name_goes_to_the_daemon_byte_for_byte_whatever_the_locale(locale: str, tmp_path: Path, daemon: Any) -> None:
    daemon.answers["show"] = DISK | {"disk": "köln:xvda"}
    for name in ("köln".encode(), b"k\xf6ln"):
        done = run(tmp_path, "show", name + b":xvda", LC_ALL=locale)
        assert daemon.asked[-1][1] == {"disk": os.fsdecode(name) + ":xvda"}, done.stderr
        assert "köln:xvda" in done.stdout.decode()


@pytest.mark.parametrize("words", ["lists --json", "--json", "show web1 --json", "--json bench --bs 1"])
def test_a_usage_error_is_json_for_programs(words: str, tmp_path: Path) -> None:
    done = run(tmp_path, *words.split())
    error = json.loads(done.stderr)["error"]
    assert done.returncode == error["exit-status"] == 2 and error["class"] == "PropertyError" and error["message"]
    assert error["hint"].startswith("see xenvbd") and set(error) == {
        "class", "errno", "message", "disk", "path", "exit-status", "hint"}


def test_a_usage_error_of_a_word_that_is_json_is_for_people(tmp_path: Path) -> None:
    assert run(tmp_path, "show", "--", "--json").stderr.startswith(b"xenvbd show: ")


def test_a_fault_of_ours_is_json_for_programs(tmp_path: Path, daemon: Any) -> None:
    daemon.answers["list"] = {"discs": []}
    done = run(tmp_path, "list", "--json")
    assert "internal error" in json.loads(done.stderr)["error"]["message"] and done.returncode == 1

"""A run's own directory goes with it, and with the next run if it was killed."""
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xenvbd.cli import directory

HOLD = """
import sys, time
from xenvbd.cli import directory
with directory.own("run-", sys.argv[1]) as where:
    print(where, flush=True)
    time.sleep(600)
"""
STAY = "import socket, sys, time\n{}print(flush=True)\ntime.sleep(600)"


def run(tmp_path: Path) -> tuple["subprocess.Popen[str]", Path]:
    """A run that lives, and its directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def test_it_goes_with_its_run(tmp_path: Path) -> None:
    with directory.own("run-", str(tmp_path)) as where:
        (where / "file").write_text("")
        assert where.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_that_of_a_run_that_lives_stays_and_that_of_a_killed_one_goes(tmp_path: Path) -> None:
    process, where = run(tmp_path)
    directory.sweep("run-", str(tmp_path))
    assert where.exists()
    kill(process)
    directory.sweep("run-", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_one_that_nobody_ever_locked_is_not_ours_to_remove(tmp_path: Path) -> None:
    (tmp_path / "run-other").mkdir()
    (tmp_path / "run-link").symlink_to(tmp_path / "run-other")
    directory.sweep("run-", str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("words", [["-m", "xenvbd.frontend", "sim:{}"], ["-m", "xenvbd.store_sim", "{}"]], ids=str)
def test_a_process_that_was_started_with_it_is_ended(words: list[str], tmp_path: Path) -> None:
    process, where = run(tmp_path)
    kill(process)
    # A program of another kind that has the words of ours.
    left = subprocess.Popen(["bash", "-c", "read", *[word.format(where) for word in words]], stdin=subprocess.PIPE)
    other = subprocess.Popen(["bash", "-c", "read", "vi", str(where)], stdin=subprocess.PIPE)
    try:
        directory.sweep("run-", str(tmp_path))
        assert left.wait(10) == -signal.SIGKILL and other.poll() is None and not where.exists()
    finally:
        for each in (left, other):
            each.kill()
            each.communicate()


def test_a_worker_is_found_by_its_socket(tmp_path: Path) -> None:
    process, where = run(tmp_path)
    kill(process)
    (where / "run").mkdir()
    listens = STAY.format("s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
                          f"s.bind('{where}/run/worker-1.sock')\ns.listen(1)\n")
    worker = subprocess.Popen(["xenvbd-worker 1", "-c", listens], executable=sys.executable, stdout=subprocess.PIPE)
    try:
        assert worker.stdout is not None and select.select([worker.stdout], [], [], 30)[0]
        os.read(worker.stdout.fileno(), 1)
        directory.sweep("run-", str(tmp_path))
        assert worker.wait(10) == -signal.SIGKILL and not where.exists()
    finally:
        worker.kill()
        worker.communicate()

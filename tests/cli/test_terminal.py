"""What is shown on a real terminal: nothing wraps and is drawn over, whatever its width."""
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.machines import TOP
from xenvbd.text import width

RATES = re.compile(r" +[0-9.]+ s  guest\d+:xvda +(prepare|load|digest) .*")


class Terminal:
    """A tmux session of so many columns and rows, in which one command runs."""

    def __init__(self, directory: Path, columns: int, rows: int, *words: str) -> None:
        self.server = ["tmux", "-u", "-f", "/dev/null", "-S", str(directory / "tmux")]
        self.done = directory / "done"
        command = shlex.join([sys.executable, "-m", "xenvbd.cli", *words])
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": str(directory), "PYTHONPATH": str(TOP)}
        environment.pop("TMUX", None)
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows),
                  f"{command}; echo $? > {self.done}; exec sleep 600", env=environment)
        self.tmux("set-option", "-g", "history-limit", "9999")

    def tmux(self, *words: str, env: dict[str, str] | None = None) -> str:
        return subprocess.run([*self.server, *words], env=env, capture_output=True, text=True, check=True).stdout

    def end(self, seconds: float = 60) -> int:
        """The command's exit status."""
        deadline = time.monotonic() + seconds
        while not (self.done.exists() and self.done.read_text()):
            assert time.monotonic() < deadline, self.lines()
            time.sleep(0.05)
        return int(self.done.read_text())

    def lines(self) -> list[str]:
        """All that was written, a line that wrapped joined again."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-").splitlines()

    def close(self) -> None:
        self.tmux("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """terminal(columns, rows, *words)"""
    made: list[Terminal] = []

    def make(columns: int, rows: int, *words: str) -> Terminal:
        made.append(Terminal(tmp_path, columns, rows, *words))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_live_view_of_sim_fits_and_is_drawn_in_its_place(columns: int, terminal: Callable[..., Terminal]) -> None:
    one = terminal(columns, 24, "sim", "--guests", "2", "--seconds", "2s", "--size", "8M")
    assert one.end() == 0
    view = [line for line in one.lines() if re.match(r" +[0-9.]+ s  ", line)]
    assert view and all(len(line.rstrip()) <= columns for line in view)
    assert len([line for line in view if RATES.match(line)]) == 2, "\n".join(one.lines())


def test_a_view_of_more_disks_than_rows_is_drawn_in_its_place(terminal: Callable[..., Terminal]) -> None:
    one = terminal(80, 8, "sim", "--guests", "10", "--seconds", "1s", "--size", "1M", "null:1G", *["mem:1M"] * 9)
    assert one.end() == 0
    rates = [line for line in one.lines() if RATES.match(line)]
    assert len(rates) <= 10, "\n".join(one.lines())


def test_the_bar_of_bench_stays_on_its_line(terminal: Callable[..., Terminal]) -> None:
    one = terminal(50, 24, "bench", "null:1G", "--seconds", "1s")
    assert one.end() == 0
    assert not [line for line in one.lines() if "s left" in line], "\n".join(one.lines())


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_list_has_a_line_for_each_disk_of_any_name_and_target(
        columns: int, terminal: Callable[..., Terminal], daemon: Any) -> None:
    disk = {"domid": 7, "name": "xvda", "size": 1 << 30, "mode": "rw", "note": "waiting for the guest",
            "state": {"backend": "InitWait", "frontend": "Initialising"}, "target": "/srv/xen/images/of/web/1.img"}
    daemon.answers["list"] = {"disks": [disk | {"disk": f"{name}:xvda"} for name in ("web1", "仮想機", "köln")]}
    one = terminal(columns, 24, "--socket", daemon.path, "list")
    assert one.end() == 0
    header, *lines = [line for line in one.lines() if line]
    assert len(lines) == 3 and all(width(line) <= columns for line in [header, *lines])
    assert len({width(line.partition(" 7 ")[0]) for line in lines}) == 1

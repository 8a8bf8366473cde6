"""Nothing outlives a tree of processes: not a stubborn child, not what a child left behind."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

# In a process of its own: it becomes a subreaper, and ends every child it has.
RUN = "import sys, time, signal\nfrom xenvbd.cli.tree import Tree, stopping_signals\n"


def run(script: str, **how: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", RUN + script], cwd=TOP, stdout=subprocess.PIPE, text=True, **how)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, pids))


def test_children_end_with_the_tree() -> None:
    done = run("with Tree() as tree: print(tree.spawn(['sleep', '60']).pid)").communicate(timeout=20)[0]
    assert gone([int(done)])


def test_a_child_that_ignores_sigterm_is_killed() -> None:
    process = run("""
import xenvbd.cli.tree as t; t.STOP_SECONDS = 0.2
with Tree() as tree:
    child = tree.spawn(['bash', '-c', 'trap "" TERM; echo ready; sleep 60 & wait; wait'], stdout=-1)
    child.stdout.readline(); print(child.pid)
    tree.stop(child, 0.2)
""")
    assert gone([int(process.communicate(timeout=20)[0])])


def test_what_a_child_leaves_behind_ends_too() -> None:
    process = run("""
with Tree() as tree:
    child = tree.spawn(['bash', '-c', 'setsid sleep 60 & echo $!'], stdout=-1)
    print(child.stdout.readline().decode().strip()); child.wait()
""")
    assert gone([int(process.communicate(timeout=20)[0])])


def test_children_end_when_we_are_killed() -> None:
    process = run("tree = Tree(); print(tree.spawn(['sleep', '60']).pid, flush=True); time.sleep(60)")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=20)
    assert gone([pid])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_tree_close_once(number: signal.Signals) -> None:
    process = run("""
try:
    with stopping_signals(), Tree() as tree:
        print(tree.spawn(['sleep', '60']).pid, flush=True); time.sleep(60)
except KeyboardInterrupt as stop:
    print(int(stop.args[0]))
""")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.kill(process.pid, number)
    os.kill(process.pid, number)
    assert int(process.communicate(timeout=20)[0]) == number and gone([pid])

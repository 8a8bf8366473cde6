"""bash completion: the script, with the real command behind it."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture
def bin_directory(tmp_path: Path) -> Path:
    """A directory with an xenvbd that runs this source tree, and lists two disks."""
    command = tmp_path / "xenvbd"
    command.write_text(f"#!/bin/bash\n[ \"$*\" = \"list --quiet\" ] && {{ echo web1:xvda; echo db2:xvda; exit; }}\n"
                       f"echo \"$@\" >> {tmp_path}/calls\nexec {sys.executable} -m xenvbd.cli \"$@\"\n")
    command.chmod(0o755)
    return tmp_path


def complete(where: Path, line: str, times: int = 1) -> list[str]:
    """What bash offers after this line (its words split as readline does, at colons too)."""
    words = line.replace(":", " : ").split(" ") if ":" in line else line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    previous = words[-2]
    script = (f"source {TOP}/completions/xenvbd; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; "
              f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
              f"for i in $(seq {times}); do _xenvbd xenvbd '{words[-1]}' '{previous}'; done; "
              "printf '%s\\n' \"${COMPREPLY[@]}\"")
    env = {**os.environ, "PATH": f"{where}:{os.environ['PATH']}", "PYTHONPATH": str(TOP)}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.split()


def test_verbs_are_offered_first(bin_directory: Path) -> None:
    assert complete(bin_directory, "xenvbd ") == [
        "serve", "attach", "detach", "list", "show", "explain", "resume", "restart", "doctor", "sim", "bench"]
    assert complete(bin_directory, "xenvbd --json s") == ["serve", "show", "sim"]


def test_options_are_the_verbs_own(bin_directory: Path) -> None:
    assert complete(bin_directory, "xenvbd detach --f") == ["--force"]
    assert complete(bin_directory, "xenvbd list --f") == []
    assert "-q" in complete(bin_directory, "xenvbd list -")


def test_values_are_offered(bin_directory: Path) -> None:
    assert complete(bin_directory, "xenvbd bench --rw rand") == ["randread", "randwrite", "randrw"]


def test_disks_are_offered_also_past_the_colon(bin_directory: Path) -> None:
    assert complete(bin_directory, "xenvbd show ") == ["web1:xvda", "db2:xvda"]
    assert complete(bin_directory, "xenvbd show web1:x") == ["xvda"]


def test_the_command_is_asked_once_a_shell(bin_directory: Path) -> None:
    complete(bin_directory, "xenvbd s", times=3)
    assert (bin_directory / "calls").read_text().splitlines() == ["--verbs"]

"""Running `xenvbd sim` and `bench` as a user does, and looking for what they left behind."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).parents[2]
SECONDS = 60


class Command:
    """`xenvbd WORDS` as a process; its images are in a directory of the test's own."""

    def __init__(self, images: Path, *words: str, **how: object) -> None:
        env = {**os.environ, "TMPDIR": str(images), "PYTHONPATH": str(TOP)}
        self.process = subprocess.Popen([sys.executable, "-m", "xenvbd.cli", *words], env=env, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
        self.out = ""

    def until(self, pattern: str) -> re.Match[str]:
        """Read stdout up to a line that matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out += line
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"never said {pattern!r}:\n{self.out}{self.process.communicate()[1]}")

    def end(self, seconds: float = SECONDS) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, self.out + out, err

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


def processes_with(text: str) -> list[str]:
    """The command lines of processes that have this text in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in words:
            found.append(words)
    return found


def nothing_left(directory: str, images: Path, seconds: float = 10.0) -> bool:
    """No process of the machine in this directory, nor the directory, nor an image."""
    deadline = time.monotonic() + seconds
    while processes_with(directory) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not processes_with(directory) and not Path(directory).exists() and not list(images.iterdir())

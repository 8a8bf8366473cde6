"""xenvbd.toml(5) and the configuration say the same, both ways; so do block-xenvbd(8) and the script; examples run."""
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.machines import Command
from xenvbd import config, target

TOP = Path(__file__).parents[2]
PAGES = sorted((TOP / "man").iterdir())
TEXT = {page.name: page.read_text() for page in PAGES}
TOML = dict(re.findall(r"^\.Sh ([A-Z ]+)\n(.*?)(?=^\.Sh|\Z)", TEXT["xenvbd.toml.5"], re.M | re.S))
EXAMPLE = re.compile(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", re.M | re.S)
# Only a host with Xen can run these.
NEEDS_XEN = ("xenvbd doctor", "xenvbd explain", "xl ", "XENBUS_PATH=", "modprobe ")


def items(section: str) -> dict[str, str]:
    """The keys of a section of xenvbd.toml(5), and what is said of each."""
    return dict(re.findall(r"^\.It Li (\S+)\n(.*?)(?=^\.It|^\.El)", TOML[section], re.M | re.S))


def default(text: str) -> str:
    """The default that is said of a key, as TOML; empty, if none is."""
    found = re.search(r"^Default: (\w+)\.$|^Default:\n\.(Li|Qq) (.*?) [.,]$", text, re.M)
    if found is None:
        return ""
    return found[1] or (found[3] if found[2] == "Li" else f'"{found[3]}"')


def defaults(section: str) -> dict[str, str]:
    """The keys of a section of the configuration, and their defaults as TOML."""
    holder, keys = ((config.DiskOptions(), config.DISK_KEYS) if section == "disk"
                    else (config.Config(), config.SECTIONS[section]))
    return {name: kind.write(getattr(holder, field)) for name, (field, kind) in keys.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_finds_nothing_to_warn_of(page: Path) -> None:
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False)
    assert (lint.stdout, lint.returncode) == ("", 0)


@pytest.mark.parametrize("section", ["backend", "targets", "log", "disk"])
def test_every_key_is_documented_with_its_default_and_no_other(section: str) -> None:
    said = {name: default(text) for name, text in items(section.upper()).items()}
    if section == "disk":
        assert said.pop("match") == ""
    assert said == defaults(section)


def test_the_examples_of_the_configuration_can_be_read() -> None:
    examples = EXAMPLE.findall(TOML["EXAMPLES"])
    assert len(examples) >= 3
    for example in examples:
        assert config.loads(example) != config.Config()


def test_the_script_s_words_are_the_page_s() -> None:
    script = (TOP / "scripts/block-xenvbd").read_text()
    words = set(re.findall(r"^    (\w+)\)", script, re.M))
    assert words == set(re.findall(r"^\.It Cm (\w+)$", TEXT["block-xenvbd.8"], re.M))


def test_every_disk_specification_in_the_pages_is_one() -> None:
    text = "\n".join(example for page in TEXT.values() for example in EXAMPLE.findall(page))
    found = re.findall(r"disk = \[ '(.*)' \]|'(vdev=.*)'", text)
    assert len(found) >= 5
    for pair in found:
        assert target.parse_diskspec("".join(pair)).target is not None


def commands(prompt: str) -> list[str]:
    """The commands in the examples of all pages that stand after this prompt; of those as root, what needs no Xen."""
    found = [line[2:] for page in TEXT.values() for example in EXAMPLE.findall(page)
             for line in example.splitlines() if line.startswith(prompt + " ")]
    return [command for command in found if not command.startswith(NEEDS_XEN)]


@pytest.fixture
def shell(tmp_path: Path):
    """Runs a command as a user would type it, in a directory of its own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "home").mkdir()
    command = tmp_path / "bin/xenvbd"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m xenvbd.cli "$@"\n')
    command.chmod(0o755)

    def run(line: str, **environment: str) -> str:
        env = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(TOP), **environment}
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path / "home", env=env, capture_output=True, text=True,
                              timeout=120, check=False)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout
    return run


def test_the_examples_for_everybody_run_as_they_stand(shell) -> None:
    lines = commands("$")
    assert len(lines) >= 3
    said = "".join(shell(line) for line in lines)
    assert "equal: every byte is where it belongs" in said and "IOPS" in said


def test_the_examples_for_dom0_run_on_a_simulated_machine(shell, tmp_path: Path) -> None:
    """With the simulated guest's name for the page's, and an image where this machine may serve it from."""
    image = tmp_path / "web1.img"
    image.write_bytes(bytes(1 << 20))
    machine = Command(tmp_path, "sim", "--keep", "--size", "1M", "--seconds", "0.1", "--write-target", str(image))
    socket = machine.until(r"XENVBD_SOCKET=(\S+)")[1]
    machine.until("stays up until Ctrl-C")
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1 << 20))
    lines = commands("#")
    assert len(lines) >= 3
    for line in lines:
        told = re.sub(r"/srv/xen/\w+\.img", str(other), line.replace("web1:", "guest1:").replace("web1 ", "guest1 "))
        shell(told, XENVBD_SOCKET=socket)
    machine.signal(signal.SIGINT)
    assert machine.end()[0] == 0

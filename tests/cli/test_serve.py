"""`xenvbd serve`: its configuration, and a host without Xen."""
import os
from pathlib import Path

import pytest

from tests.cli.machines import Command
from xenvbd import cli
from xenvbd.cli import parser, serve


def test_without_xen_it_is_6_and_says_what_runs_nevertheless(tmp_path: Path) -> None:
    if os.path.exists("/dev/xen/evtchn"):
        pytest.skip("this host runs Xen")
    status, _, err = Command(tmp_path, "serve", "--config", os.devnull).end()
    assert status == 6 and "/dev/xen/evtchn" in err and "xenvbd sim" in err


def test_a_simulated_machine_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    status, _, err = Command(tmp_path, "serve", "--config", os.devnull, "--hypervisor", f"sim:{tmp_path}/no").end()
    assert status == 1 and f"{tmp_path}/no" in err and not (tmp_path / "no").exists()


def test_what_the_command_line_says_comes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[backend]\nhypervisor = "xen"\nkinds = ["qdisk"]\n[log]\ntrace = ["xs_*"]\n')
    found = serve.configuration(parser.build().parse_args(
        ["serve", "-c", str(file), "--hypervisor", "sim:/m", "--trace", "xen_*", "--socket", "/s"]))
    assert (found.hypervisor, found.kinds, found.control) == ("sim:/m", ("qdisk",), "/s")
    assert found.trace == ("xs_*", "xen_*")


def test_a_simulated_machines_daemon_keeps_its_files_in_the_machine() -> None:
    found = serve.configuration(parser.build().parse_args(["serve", "-c", os.devnull, "--hypervisor", "sim:/m"]))
    assert (found.runtime_dir, found.control) == ("/m/run", "/m/run/control.sock")


def test_the_configuration_in_force_can_be_printed_and_read_again(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "-c", os.devnull, "--hypervisor", "sim:/m", "--dump-config"]) == 0
    file = tmp_path / "x.toml"
    file.write_text(first := capsys.readouterr().out)
    assert cli.main(["serve", "-c", str(file), "--dump-config"]) == 0
    assert capsys.readouterr().out == first and 'hypervisor = "sim:/m"' in first


@pytest.mark.parametrize(("text", "says"), [
    ("[backend]\nkind = 1\n", "[backend] has the unknown key 'kind'"),
    ("[backend\n", "not TOML"),
    ("[log]\nlevel = 3\n", "[log] level: found 3, expected"),
])
def test_a_wrong_configuration_is_a_usage_error_that_names_file_and_key(
        text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    assert cli.main(["serve", "-c", str(file)]) == 2
    said = capsys.readouterr().err
    assert str(file) in said and says in said
